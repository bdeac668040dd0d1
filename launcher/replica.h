// What one tensor-parallel rank of a replica is made of, and how big everything is.
#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "kernels/cpu/cpu_backend.h"
#include "launcher/engine.h"
#include "launcher/shard_device.h"
#include "parallel/communicator.h"
#include "runtime/draft_setup.h"
#include "runtime/model_config.h"
#include "runtime/model_files/tensor_source.h"
#include "runtime/scheduler.h"
#include "runtime/shard_executor.h"
#include "runtime/weights.h"

namespace convoke {

/// Everything that must be equal on all ranks of a job, decided once before memory is taken.
struct ReplicaSetup {
  EngineOptions options;
  ModelConfig config;
  /// The mapped checkpoint, shared by the shards of a process; null for dummy weights, which every
  /// shard makes for itself.
  std::shared_ptr<const TensorSource> source;
  DType dtype = DType::kBFloat16;
  ShardDevice device = ShardDevice::kCpu;
  ShardDevice draft_device = ShardDevice::kCpu;  ///< of a drafter with a model
  cpu::Isa isa = cpu::Isa::kPortable;
  /// GPUs: every shard of this process takes the next one of its host, from the first that is left
  /// to the process.
  int first_device = 0;
  std::shared_ptr<std::atomic<int>> next_device = std::make_shared<std::atomic<int>>(0);
  /// Not empty: makes the shards' backends instead (for tests).
  std::function<std::unique_ptr<Backend>()> make_backend;
  std::function<std::unique_ptr<Communicator>(Backend&, std::unique_ptr<Communicator>)>
      make_communicator;  ///< likewise
  int tp = 1;
  int shards_on_host = 1;
  int threads = 1;  ///< per shard
  int max_model_len = 0;
  int32_t kv_blocks = 0;
  bool drafter_has_rank = false;
  std::shared_ptr<DraftSetup> draft_setup = std::make_shared<DraftSetup>();

  /// A shard's backend, on a device of its own if it is a GPU.
  std::unique_ptr<Backend> make_shard_backend() const;
  /// For a drafter that has nothing to share with a shard of this process.
  DraftContext draft_context() const;
  ShardLimits shard_limits(FeatureRing* feature_ring) const;
  SchedulerOptions scheduler_options() const;
  CommunicatorOptions communicator_options() const;
  int64_t kv_cache_tokens() const { return int64_t(kv_blocks) * kKvBlockSize; }
};

/// Reads and checks the model directory and the flags. The shards of this host share its free
/// memory; on GPUs each has a device, this process's the ones from `first_device` on. Throws Error
/// naming flag, file or tensor.
ReplicaSetup prepare_replica(const EngineOptions& options, int tp, int shards_on_host,
                             int first_device = 0);

/// CPUs this process may use.
int usable_cpus();
/// Memory that can be had without swapping, in bytes.
int64_t available_memory();

/// One shard: backend, packed weights, executor.
class ShardRank {
 public:
  ShardRank(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator);

  Communicator& communicator() { return *communicator_; }
  ShardExecutor& executor() { return *executor_; }
  Backend& backend() { return *backend_; }
  const ModelWeights& weights() const { return weights_; }
  int64_t weight_bytes() const { return weights_.bytes_per_pass(); }
  /// Of the first rank, where features stay on a device: else null.
  const std::shared_ptr<FeatureRing>& feature_ring() const { return feature_ring_; }
  SharedWeights shared_weights() const { return convoke::shared_weights(weights_, config_, plan_); }

 private:
  ModelConfig config_;
  ShardPlan plan_;
  std::unique_ptr<Backend> backend_;
  std::unique_ptr<Communicator> communicator_;
  ModelWeights weights_;
  std::shared_ptr<FeatureRing> feature_ring_;
  std::unique_ptr<ShardExecutor> executor_;
};

}  // namespace convoke
