// Named tensors, wherever they come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "runtime/model_config.h"

namespace convoke {

struct TensorInfo {
  std::string name;
  DType dtype = DType::kBFloat16;
  std::vector<int64_t> shape;
  std::string file;  ///< for messages
};

class TensorSource {
 public:
  virtual ~TensorSource() = default;
  virtual std::vector<TensorInfo> list() const = 0;
  virtual bool contains(const std::string& name) const = 0;
  /// A 1-d tensor is a view with rows == 1. The view stays valid as long as the source. Nothing is
  /// read yet for memory-mapped files: pages are touched when the view's slice is. Throws
  /// Error(kModel) naming file and tensor.
  virtual TensorView tensor(const std::string& name) const = 0;
};

/// The *.safetensors files of a model directory: model.safetensors, or those of
/// model.safetensors.index.json. Memory-mapped read-only. Headers are checked whole: lengths,
/// offsets inside the file, no overlaps, shape * dtype == bytes, duplicates.
std::unique_ptr<TensorSource> open_checkpoint(const std::filesystem::path& directory);

/// Random weights from config.json alone (--load-format dummy), for performance work: the same
/// numbers for a name and seed on every rank. Tensors are made when asked for and live until the
/// source is destroyed or release() is called.
class DummySource : public TensorSource {
 public:
  explicit DummySource(const ModelConfig& config, uint64_t seed = 0);
  ~DummySource() override;
  std::vector<TensorInfo> list() const override;
  bool contains(const std::string& name) const override;
  TensorView tensor(const std::string& name) const override;
  void release() const;  ///< frees every tensor made so far (their views die)

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The tensors an architecture must have, with their shapes, in the order of the forward pass.
std::vector<TensorInfo> expected_tensors(const ModelConfig& config);

/// Compares a source with expected_tensors: missing, surplus (rotary inverse frequencies of old
/// checkpoints and lm_head of tied models are let pass), wrong shape or dtype. Throws one
/// Error(kModel) that names file and tensors (the first few of many), before memory is taken.
void check_tensors(const ModelConfig& config, const TensorSource& source);

}  // namespace convoke
