// What the models of drafters compute on: what --draft-device means on this host, which GPU, and
// how much of its memory.
#pragma once

#include <cstdint>
#include <string>

#include "launcher/shard_device.h"
#include "runtime/drafter.h"

namespace convoke {

struct EngineOptions;
struct ReplicaSetup;

/// What a shard has for a drafter beside it.
struct SharedShard {
  Backend* backend = nullptr;  ///< lives until the drafter has been made
  SharedWeights weights;
  std::shared_ptr<FeatureRing> features;  ///< null where features go through the host
};

/// "auto" is what the shards compute on; without a model of its own a drafter computes on the CPU.
/// Throws Error(kUsage) for another name, and where "cuda" makes no sense: with shards on CPUs, or
/// for a drafter that has no model.
ShardDevice choose_draft_device(const EngineOptions& options, ShardDevice shards);

/// The same on the rank of a drafter, which no shard need share a host with. `auto` takes the CPU
/// where there is no GPU. Throws Error(kUsage) where "cuda" is asked for and there is none.
ShardDevice choose_draft_device_of_rank(const EngineOptions& options);

/// The GPU for a drafter in a process of its own: one that is left over by the shards of its host
/// and the drafters before it; else it shares one. -1 without GPUs.
int choose_draft_gpu(int gpus, int shards_on_host, int drafters_before);

/// GPUs that this process can use, 0 without CUDA.
int usable_gpus();

/// Bytes that the drafter's weights, keys, values and states take on a GPU beside the target's; 0
/// if it has no model. `shares_weights`: it takes the target's embedding and lm_head where they
/// are. Reads its configuration and the names in its files.
int64_t draft_memory(const DrafterSpec& spec, const ReplicaSetup& setup, bool shares_weights);

/// Bytes of the target's features that stay on the GPU for such a drafter beside it.
int64_t ring_memory(const DrafterSpec& spec, const ReplicaSetup& setup);

/// Whether a drafter that is placed so computes on a sibling of its shard's backend.
bool is_beside_shard(const ReplicaSetup& setup, const std::string& placement);

/// For a drafter of a replica's shard 0, on a thread beside it or in a child process (`placement`).
/// `replica`: of those on this host.
DraftContext context_beside_shard(const ReplicaSetup& setup, const std::string& placement,
                                  const SharedShard& shard, int replica);

/// In a process that knows its GPU by DraftContext::gpu: makes it what models compute on.
void compute_on_gpu(DraftContext& context);

}  // namespace convoke
