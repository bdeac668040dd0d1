#include "launcher/draft_device.h"

#include <algorithm>

#include "kernels/check.h"
#include "launcher/inspect.h"
#include "launcher/replica.h"
#include "runtime/drafters/tree_methods.h"
#include "runtime/heads/branch_factory.h"
#include "runtime/heads/eagle3_head.h"
#include "runtime/heads/medusa_heads.h"

namespace convoke {
namespace {

constexpr char kAsk[] = "--draft-device";

void check_name(const std::string& flag) {
  if (flag == "auto" || flag == "cpu" || flag == "cuda") return;
  throw_error(ErrorKind::kUsage, "{} '{}': expected auto, cpu or cuda", kAsk, flag);
}

int64_t bytes_of(const std::vector<HeadTensor>& tensors, DType dtype) {
  int64_t elements = 0;
  for (const HeadTensor& tensor : tensors) {
    if (tensor.optional || tensor.type != HeadTensor::Type::kFloat) continue;
    int64_t count = 1;
    for (const int64_t extent : tensor.shape) count *= extent;
    elements += count;
  }
  return elements * int64_t(dtype_size(dtype));
}

/// Slots of keys and values of all places.
int64_t slots_of(const ReplicaSetup& setup) {
  const int64_t scratch = BranchOptions{}.scratch_slots;
  const auto blocks = int64_t(blocks_for(setup.max_model_len)) + blocks_for(scratch);
  return setup.options.max_num_seqs * blocks * kKvBlockSize;
}

/// What a head has of the target's embedding and lm_head that is not the target's own memory.
int64_t copied_from_target(const HeadConfig& head, const TensorSource* source,
                           const ReplicaSetup& setup, bool shares_weights) {
  const ModelConfig& target = setup.config;
  const bool own_embedding = source != nullptr && source->contains("embed_tokens.weight");
  const bool own_vocabulary = source != nullptr && source->contains("d2t");
  int64_t bytes = 0;
  if (own_embedding || !shares_weights) {
    bytes += int64_t{target.vocabulary} * std::max(target.hidden, head.layer.hidden) *
             int64_t(dtype_size(target.checkpoint_dtype));
  }
  // EAGLE-3 has an lm_head of its own.
  if (head.kind == HeadKind::kEagle && (own_vocabulary || !shares_weights)) {
    bytes += int64_t{head.draft_vocabulary} * target.hidden * int64_t(dtype_size(setup.dtype));
  }
  return bytes;
}

int64_t tree_head_memory(const std::string& method, const std::string& directory,
                         const ReplicaSetup& setup, bool shares_weights) {
  const ModelConfig& target = setup.config;
  const HeadKind kind = parse_head_kind(method);
  const HeadConfig head = load_head_config(kind, directory, target);
  const std::shared_ptr<const TensorSource> source = head.random ? nullptr : open_head(directory);
  // Of the largest type that it may be kept in.
  const auto element = int64_t(dtype_size(setup.dtype == DType::kFloat32 || head.random
                                              ? setup.dtype
                                              : source->tensor("fc.weight").dtype));
  const auto dtype = element == 4 ? DType::kFloat32 : DType::kBFloat16;
  const ModelConfig& layer = head.layer;
  int64_t bytes = bytes_of(kind == HeadKind::kEagle ? EagleHead::tensors(head, nullptr)
                                                    : Eagle3Head::tensors(head, nullptr),
                           dtype);
  bytes += copied_from_target(head, source.get(), setup, shares_weights);
  const int64_t slots = slots_of(setup);
  bytes += slots * 2 * layer.kv_heads * layer.head_dim * element;
  const int64_t states = setup.options.max_num_seqs * int64_t{BranchOptions{}.scratch_slots + 1};
  return bytes + states * layer.hidden * int64_t(sizeof(float));
}

int64_t medusa_memory(const std::string& argument, const ReplicaSetup& setup) {
  const HeadConfig head = load_head_config(HeadKind::kMedusa, argument, setup.config);
  const std::shared_ptr<const TensorSource> source = head.random ? nullptr : open_head(argument);
  const MedusaHeads::Extents extents = MedusaHeads::extents(head, source.get());
  const bool wide = setup.dtype == DType::kFloat32;
  return bytes_of(MedusaHeads::tensors(head, extents), wide ? DType::kFloat32 : DType::kBFloat16) +
         // Logits of all heads at once.
         std::min(setup.options.max_num_seqs, 16) * int64_t{extents.heads} *
             setup.config.vocabulary * int64_t(sizeof(float));
}

int64_t draft_model_memory(const std::string& directory, const ReplicaSetup& setup) {
  const ModelConfig config = ModelConfig::load(directory);
  const DType dtype = weight_dtype(setup.options.dtype, config, true);
  const RankMemory memory = rank_memory(config, 1, dtype);
  return memory.packed_bytes + memory.mapped_bytes + memory.kv_bytes_per_token * slots_of(setup);
}

}  // namespace

int64_t draft_memory(const DrafterSpec& spec, const ReplicaSetup& setup, bool shares_weights) {
  if (!has_model(spec)) return 0;
  if (spec.method == "medusa") return medusa_memory(spec.argument, setup);
  const std::string directory = TreeMethodOptions::parse(spec.method, spec.argument).directory;
  return spec.method == "draft-model"
             ? draft_model_memory(directory, setup)
             : tree_head_memory(spec.method, directory, setup, shares_weights);
}

ShardDevice choose_draft_device(const EngineOptions& options, ShardDevice shards) {
  check_name(options.draft_device);
  if (options.draft_device != "cuda") {
    return options.draft_device == "auto" ? shards : ShardDevice::kCpu;
  }
  if (shards == ShardDevice::kCpu) {
    throw_error(ErrorKind::kUsage,
                "{} cuda: shards compute on CPUs here; give --device cuda as well", kAsk);
  }
  if (!has_model(options.drafter) && options.later_drafters.empty()) {
    throw_error(ErrorKind::kUsage, "{} cuda: --drafter {} has no model that could compute there",
                kAsk, options.drafter.method);
  }
  return ShardDevice::kCuda;
}

ShardDevice choose_draft_device_of_rank(const EngineOptions& options) {
  check_name(options.draft_device);
  if (options.device != "cuda" || options.draft_device == "cpu" || !has_model(options.drafter)) {
    return ShardDevice::kCpu;
  }
  if (options.draft_device == "auto" && usable_gpus() == 0) return ShardDevice::kCpu;
  return choose_device("cuda");
}

int usable_gpus() {
  std::string why;
  return cuda_devices(why);
}

int choose_draft_gpu(int gpus, int shards_on_host, int drafters_before) {
  return gpus == 0 ? -1 : (shards_on_host + drafters_before) % gpus;
}

bool is_beside_shard(const ReplicaSetup& setup, const std::string& placement) {
  if (placement == "process" || placement == "rank") return false;
  // Two teams of threads on the same cores would get in each other's way. Beside a GPU the cores
  // are the drafter's own.
  const bool shares_cores =
      setup.device == ShardDevice::kCpu && setup.tp == 1 && setup.shards_on_host == 1;
  return setup.draft_device == ShardDevice::kCuda || shares_cores;
}

int64_t ring_memory(const DrafterSpec& spec, const ReplicaSetup& setup) {
  if (!has_model(spec)) return 0;
  return FeatureRing::bytes(setup.options.max_num_seqs, setup.options.max_batched_tokens,
                            draft_needs(spec, setup.config).features.width(setup.config),
                            setup.dtype == DType::kFloat16 ? DType::kFloat32 : setup.dtype);
}

DraftContext context_beside_shard(const ReplicaSetup& setup, const std::string& placement,
                                  const SharedShard& shard, int replica) {
  DraftContext context = setup.draft_context();
  const bool on_gpu = setup.draft_device == ShardDevice::kCuda;
  if (on_gpu && placement == "process") {
    context.gpu.device = choose_draft_gpu(usable_gpus(), setup.shards_on_host, replica);
  }
  if (is_beside_shard(setup, placement)) {
    context.make_backend = [backend = shard.backend] { return backend->sibling(); };
    context.shared = shard.weights;
    context.feature_ring = shard.features;
  }
  return context;
}

void compute_on_gpu(DraftContext& context) {
  if (context.gpu.device < 0) return;
  context.make_backend = [gpu = context.gpu] { return make_gpu_backend(gpu); };
}

}  // namespace convoke
