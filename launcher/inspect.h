// `convoke inspect DIR`: what a model directory holds, what it takes to run it, and everything that
// stands against loading it. Of a drafter's directory: launcher/inspect_head.h.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <optional>
#include <string>
#include <vector>

#include "kernels/tensor.h"
#include "runtime/model_config.h"
#include "runtime/model_files/checkpoint.h"

namespace convoke {

struct InspectOptions {
  std::filesystem::path directory;
  int tp = 1;
  bool json = false;
  std::filesystem::path model;  ///< of a drafter: the target to check it against; empty = none
};

/// What the largest of `tp` ranks holds.
struct RankMemory {
  int tp = 1;
  int64_t packed_bytes = 0;        ///< matrices, norms and biases, in the backend's memory
  int64_t mapped_bytes = 0;        ///< embedding rows, read from the mapped file
  int64_t kv_bytes_per_token = 0;  ///< keys and values of all layers
};

/// With weights, keys and values of type `dtype`.
RankMemory rank_memory(const ModelConfig& config, int tp, DType dtype);

struct Inspection {
  std::string directory;
  std::optional<ModelConfig> config;
  std::vector<CheckpointScan::File> files;  ///< those that could be read
  std::string tokenizer;                    ///< "byte-level BPE, 4096 tokens"; "" if unknown
  DType run_dtype = DType::kBFloat16;       ///< of the weights in memory
  int tp = 1;
  std::vector<RankMemory> sizes;      ///< one per tensor-parallel size that divides the model
  int64_t free_bytes = 0;             ///< memory of this host
  std::vector<std::string> problems;  ///< each names file and tensor or key; empty = it loads
  std::vector<std::string> notes;     ///< odd, but no obstacle

  const RankMemory* chosen() const;  ///< the entry of `sizes` for `tp`, or null
  /// Keys and values of so many tokens fit in `free_bytes` beside the weights, all ranks on this
  /// host. 0 if not even the weights fit.
  int64_t tokens_that_fit() const;
};

/// Gathers problems and goes on; never throws for what the directory holds.
Inspection inspect_model(const InspectOptions& options, int64_t free_bytes);

/// Prints an inspection of a model or a drafter, problems to `err` (with `json` all to `out`).
/// Returns the exit status: 0 if the model loads at this tensor-parallel size, else 1.
int run_inspect(const InspectOptions& options, std::ostream& out, std::ostream& err);

}  // namespace convoke
