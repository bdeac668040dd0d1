// A running job, as the commands see it: requests in, tokens out. Behind it stand the
// coordinator(s), shards, drafter and supervisor, as threads of this process or as ranks of a job.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "actors/mailbox.h"
#include "actors/messages.h"
#include "kernels/backend.h"
#include "runtime/drafter.h"
#include "runtime/model_config.h"
#include "runtime/tokenizer/tokenizer.h"

namespace convoke {

struct EngineOptions {
  std::filesystem::path model;
  std::string load_format = "auto";      ///< auto | dummy
  std::string dtype = "auto";            ///< auto | float32 | bfloat16 | float16
  std::string device = "auto";           ///< auto | cpu | cuda
  std::string draft_device = "auto";     ///< auto | cpu | cuda: of drafters with a model
  std::string gpu_matmul = "exact";      ///< exact | fast
  std::string gpu_graphs = "on";         ///< on | off
  std::string gpu_collectives = "auto";  ///< auto | ipc | nccl | host
  std::string cpu_isa = "auto";
  int threads = 0;  ///< per process; 0 = all cores
  int tp = 0;       ///< 0 = 1 alone; under a launcher derived from its size
  int replicas = 1;
  int max_model_len = 0;         ///< 0 = the model's
  int max_num_seqs = 16;         ///< sequences per step and replica
  int max_batched_tokens = 512;  ///< rows per step; also the longest prompt chunk
  int prompt_chunk = 0;          ///< longest prompt chunk; 0 = max_batched_tokens
  int64_t kv_cache_tokens = 0;   ///< 0 = from memory and max_num_seqs
  uint64_t seed = 0;
  DrafterSpec drafter;
  /// Those that Engine::use_drafter will be given: a GPU leaves room for the largest.
  std::vector<DrafterSpec> later_drafters;
  std::string drafter_placement = "auto";  ///< auto | thread | process | rank
  double draft_deadline_ms = 0;            ///< 0 = chosen by the coordinator
  bool chatter = true;                     ///< log lines about start-up
};

/// What was put together, for people: `convoke generate -v`, bench headers.
struct EngineInfo {
  std::string backend;  ///< Backend::describe()
  std::string communicator;
  int tp = 1, replicas = 1;
  bool distributed = false;           ///< several processes
  int64_t weight_bytes_per_pass = 0;  ///< of all ranks: read by one decoding pass
  int64_t kv_cache_tokens = 0;
  int max_model_len = 0;
};

/// What this machine could do at best, measured in this run, beside what passes take. The floor of
/// a pass is the larger of its bytes over the read bandwidth and its operations over the matrix
/// rate.
struct FloorReport {
  double read_bandwidth_gb_s = 0;
  double matmul_gflop_s = 0;
  int64_t bytes_per_pass = 0;
  struct Pass {
    int rows = 0;
    double ms = 0;
    double floor_ms = 0;
  };
  std::vector<Pass> passes;  ///< one per count asked for, in that order
};

class Engine {
 public:
  virtual ~Engine() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const Tokenizer& tokenizer() const = 0;
  virtual const EngineInfo& info() const = 0;

  /// Queues a request; outputs carry `request`. Throws Error(kUsage) if it can never run (empty or
  /// too long prompt, token ids out of range). Requests of one engine may be in flight together.
  virtual void submit(const SubmitRequest& request) = 0;
  virtual void cancel(uint64_t request) = 0;
  /// The next output of any request; nullopt at the deadline. Throws Error(kPeer) when the job has
  /// failed: then every unfinished request is lost.
  virtual std::optional<RequestOutput> receive(Clock::time_point deadline) = 0;

  /// Replaces the drafter (between requests; bench). Returns when the new one is ready.
  virtual void use_drafter(const DrafterSpec& spec) = 0;

  /// Measures bandwidth, matrix rate and passes of so many rows. With no request in flight.
  virtual FloorReport measure_floor(std::span<const int> row_counts) = 0;

  /// Orderly end; also done by the destructor.
  virtual void shutdown() = 0;
};

/// Starts alone, or on the first rank of a job. Throws Error before any memory is taken if model,
/// flags and ranks do not fit together.
std::unique_ptr<Engine> start_engine(const EngineOptions& options);

/// What a process does that is a rank of a job but not the first: plays its role until the job
/// ends, and returns its exit code. nullopt on the first rank and alone: the caller runs the
/// command then. Call it before start_engine, with the same options on all ranks.
std::optional<int> run_as_worker_rank(const EngineOptions& options);

}  // namespace convoke
