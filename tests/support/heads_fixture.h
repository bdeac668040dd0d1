// The tiny heads of tests/golden/heads with what PyTorch computes for them, and a run through one
// of them in any order of calls.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "runtime/heads/branch_factory.h"

namespace convoke::testing {

struct GoldenBest {
  std::vector<int32_t> ids;
  std::vector<float> scores;
};

struct GoldenHead {
  std::string name;
  std::string method;  ///< "eagle", "eagle3", "medusa"
  std::filesystem::path directory;
  std::filesystem::path target;
  std::vector<std::vector<float>> features;
  double bfloat16_error = 0;  ///< what rounding to bfloat16 changes scores by, relative
  // eagle, eagle3:
  struct Node {
    int parent = -1;
    int32_t token = 0;
    GoldenBest best;
  };
  struct Step {
    int32_t feature_begin = 0;  ///< features [feature_begin, tokens - 1) are new
    int32_t tokens = 0;
    GoldenBest root;
    std::vector<Node> tree;
  };
  std::vector<int32_t> tokens;
  std::vector<Step> steps;
  // medusa:
  std::vector<std::vector<GoldenBest>> heads;  ///< [heads][rows]
};

GoldenHead load_golden_head(const std::string& name);
/// Names of the golden heads of a method, sorted.
std::vector<std::string> golden_head_names(const std::vector<std::string>& methods);

struct HeadShape {
  std::string dtype = "float32";
  std::string isa = "auto";
  int threads = 1;
  int max_rows = 64;
  bool shared_noise = true;
  bool float16 = false;  ///< the backend has it
  bool float8 = false;
};

DraftContext golden_context(const GoldenHead& golden, const HeadShape& shape);

/// A head with its backend.
struct OpenHead {
  OpenHead(const GoldenHead& golden, const HeadShape& shape);
  /// `shared`: of the target, of whose backend `backend` is a sibling.
  OpenHead(const GoldenHead& golden, const HeadShape& shape, std::unique_ptr<Backend> backend,
           const SharedWeights& shared = {});
  std::unique_ptr<Backend> backend;
  std::unique_ptr<BranchModel> model;
};

/// The candidates of every row of a run: bits to compare.
using Trace = std::vector<std::vector<RankedToken>>;

struct RunOptions {
  int place = 0;
  SamplingParams sampling;         ///< greedy unless told
  int chunk = 1000;                ///< features that come per call
  int rows_per_expand = 1000;      ///< of one level of a tree
  int count = 24;                  ///< candidates asked for
  bool bfloat16_features = false;  ///< as a bfloat16 target exports them
  /// Not empty: makes something else of the features of a call.
  std::function<TensorView(const TensorView&)> instead;
  RunOptions() { sampling.temperature = 0; }
};

/// Goes through the steps of a golden head: per step one entry for the root, then one per node.
Trace run_golden(BranchModel& model, const GoldenHead& golden, const RunOptions& options);

/// Every score within `tolerance` of the golden one for the same token, relative to the largest;
/// the order the golden one wherever its scores are further apart than that.
void expect_like(std::span<const RankedToken> ours, const GoldenBest& golden, double tolerance,
                 const std::string& where);
/// The same of all rows of a run.
void expect_golden(const Trace& trace, const GoldenHead& golden, double tolerance);

}  // namespace convoke::testing
