// Named tensors, wherever they come from.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "kernels/random_matrix.h"
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
  /// A scalar or 1-d tensor is a view with rows == 1; of more than two dimensions, the leading ones
  /// are flattened into rows. Thread-safe. The view stays valid as long as the source. Nothing is
  /// read yet for memory-mapped files: pages are touched when the view's slice is. Throws
  /// Error(kModel) naming file and tensor.
  virtual TensorView tensor(const std::string& name) const = 0;

  /// Hints, with a view of this source or a slice of one: `will_need` starts reading exactly the
  /// slice's pages (of a column slice, only those of its columns, where rows are long enough for
  /// that to pay); `done_with` gives its pages back. Reading a view afterwards is still allowed.
  virtual void will_need(const TensorView&) const {}
  virtual void done_with(const TensorView&) const {}

  /// Copies the elements of a view of this source, or of a slice of one, to `to`, row behind row.
  /// Thread-safe. Where they are in a file, they are read from it: throws Error(kResource) naming
  /// file and tensor when that fails, as looking at a view cannot.
  virtual void read(const TensorView& view, std::byte* to) const;

  /// What the tensor is, where its elements follow from a formula: whoever makes them elsewhere
  /// need not ask for the tensor. Throws as tensor() does.
  virtual std::optional<RandomMatrix> recipe(const std::string&) const { return std::nullopt; }

  virtual std::string describe() const { return "checkpoint"; }  ///< where from, for messages
};

/// The *.safetensors files of a model directory: model.safetensors, or those of
/// model.safetensors.index.json. Memory-mapped read-only. Headers are checked whole: lengths,
/// offsets inside the file, no overlaps or holes, shape * dtype == bytes, duplicates. Throws
/// Error(kModel) (Error(kResource) for a file that cannot be read) that names file and tensor; if
/// several things are wrong, the first few of them. A tensor that lies at an odd address for its
/// dtype is copied when asked for.
std::unique_ptr<TensorSource> open_checkpoint(const std::filesystem::path& directory);

/// The same for one safetensors file of any name.
std::unique_ptr<TensorSource> open_safetensors_file(const std::filesystem::path& file);

/// The elements of an int64 or bool tensor, in C order; what the tables of a drafter are made of
/// (EAGLE-3's `d2t` and `t2d`). A view of the source serves too: an element is then an int64_t, or
/// a byte that should be 0 or 1 and must be read as uint8_t. Throw Error(kModel) naming file and
/// tensor if it is missing, of another dtype, or a bool is neither 0 nor 1.
std::vector<int64_t> int64_values(const TensorSource& source, const std::string& name);
std::vector<bool> bool_values(const TensorSource& source, const std::string& name);

/// Random weights from config.json alone (--load-format dummy), for performance work: the same
/// numbers for a name, shape, dtype and seed on every rank and machine. Roughly normal with
/// standard deviation 1 / sqrt(columns); norm weights lie near 1, biases near 0. Tensors are made
/// when asked for and live until the source is destroyed or release() is called. Thread-safe.
class DummySource : public TensorSource {
 public:
  explicit DummySource(const ModelConfig& config, uint64_t seed = 0);
  /// Of just these tensors: vectors and matrices of floats.
  explicit DummySource(std::vector<TensorInfo> tensors, uint64_t seed = 0);
  ~DummySource() override;
  std::vector<TensorInfo> list() const override;
  bool contains(const std::string& name) const override;
  TensorView tensor(const std::string& name) const override;
  std::optional<RandomMatrix> recipe(const std::string& name) const override;
  void release() const;  ///< frees every tensor made so far (their views die)

 private:
  struct State;
  std::unique_ptr<State> state_;
};

/// The tensors an architecture must have, with their shapes, in the order of the forward pass.
/// `dtype` is the checkpoint's, `file` is empty.
std::vector<TensorInfo> expected_tensors(const ModelConfig& config);

/// Compares a source with expected_tensors: missing, surplus (rotary inverse frequencies of old
/// checkpoints and lm_head of tied models are let pass), wrong shape or dtype (any of float32,
/// bfloat16 and float16 will do,
/// unless it is float8, whose scales must be positive numbers, one for each output or one for all).
/// Throws one Error(kModel) that names file and tensors (the first few of many), before memory is
/// taken.
void check_tensors(const ModelConfig& config, const TensorSource& source);

/// What check_tensors throws, one entry per tensor.
std::vector<std::string> tensor_problems(const ModelConfig& config, const TensorSource& source);

}  // namespace convoke
