#include "launcher/replica.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <fstream>
#include <thread>

#include "kernels/check.h"
#include "launcher/draft_device.h"
#include "launcher/inspect.h"
#include "runtime/picker.h"

namespace convoke {
namespace {

// Of the memory that is free when a job starts, what its key/value cache may take unless told.
constexpr double kCacheShare = 0.4;
// Of a GPU's free memory, what a job takes; and how much of that is left for activations, work
// space and a matrix on its way to being packed.
constexpr double kDeviceShare = 0.92;
constexpr int64_t kDeviceSpare = int64_t{1} << 30;

cpu::Isa choose_isa(const std::string& flag) {
  const cpu::Isa best = cpu::best_isa();
  if (flag == "auto") return best;
  const cpu::Isa wanted = cpu::parse_isa(flag);
  if (wanted > best) {
    throw_error(ErrorKind::kUsage, "--cpu-isa {}: this machine can run at most '{}'", flag,
                cpu::isa_name(best));
  }
  return wanted;
}

int context_length(const EngineOptions& options, const ModelConfig& config) {
  if (options.max_model_len == 0) return config.max_positions;
  if (options.max_model_len < 2 || options.max_model_len > config.max_positions) {
    throw_error(ErrorKind::kUsage, "--max-model-len {}: this model takes 2 to {} tokens",
                options.max_model_len, config.max_positions);
  }
  return options.max_model_len;
}

int64_t kv_bytes_per_token(const ReplicaSetup& setup) {
  const ModelConfig& c = setup.config;
  const int64_t heads = std::max(c.kv_heads, setup.tp);  // replicated when tp exceeds them
  return 2 * c.layers * heads * c.head_dim * int64_t(dtype_size(setup.dtype)) / setup.tp;
}

/// What drafters take of the memory of a shard's GPU. A drafter in a process of its own takes a GPU
/// of its own, if there is one.
int64_t draft_share(const ReplicaSetup& setup) {
  const EngineOptions& o = setup.options;
  if (setup.draft_device == ShardDevice::kCpu) return 0;
  // In a job the ranks of drafters are counted in already.
  const int drafters = o.drafter_placement == "process" ? o.replicas : 0;
  const bool own_process = o.drafter_placement == "process" || o.drafter_placement == "rank";
  if (own_process && usable_gpus() >= setup.shards_on_host + drafters) return 0;
  const bool beside = is_beside_shard(setup, o.drafter_placement);
  const auto memory_of = [&](const DrafterSpec& spec) {
    return draft_memory(spec, setup, beside && setup.tp == 1) +
           (beside ? ring_memory(spec, setup) : 0);
  };
  int64_t bytes = memory_of(o.drafter);
  for (const DrafterSpec& spec : o.later_drafters) bytes = std::max(bytes, memory_of(spec));
  return bytes;
}

/// Tokens whose keys and values the memory of every shard has room for.
int64_t affordable_tokens(const ReplicaSetup& setup) {
  const int64_t of_token = kv_bytes_per_token(setup);
  if (setup.device == ShardDevice::kCpu) {
    return int64_t(double(available_memory()) * kCacheShare) / (of_token * setup.shards_on_host);
  }
  const RankMemory weights = rank_memory(setup.config, setup.tp, setup.dtype);
  const double free = double(free_device_memory(setup.first_device)) * kDeviceShare;
  return (int64_t(free) - weights.packed_bytes - weights.mapped_bytes - draft_share(setup) -
          kDeviceSpare) /
         of_token;
}

int32_t choose_blocks(const ReplicaSetup& setup) {
  const EngineOptions& o = setup.options;
  if (o.kv_cache_tokens < 0) {
    throw_error(ErrorKind::kUsage, "--kv-cache-tokens {}: must not be negative", o.kv_cache_tokens);
  }
  if (o.kv_cache_tokens > 0) return std::max(1, blocks_for(o.kv_cache_tokens));
  // Room for every sequence at full length with a tree, if memory allows; else what it allows.
  const int64_t wanted =
      int64_t(o.max_num_seqs) * (setup.max_model_len + int64_t(o.drafter.limits.max_nodes));
  const int64_t tokens = std::min(wanted, affordable_tokens(setup));
  if (tokens < setup.max_model_len) {
    throw_error(ErrorKind::kResource,
                "the free memory{} holds keys and values of {} tokens, less than one sequence of "
                "{}: lower --max-model-len or set --kv-cache-tokens",
                setup.device == ShardDevice::kCpu ? "" : " of the GPU, beside the weights,",
                std::max<int64_t>(tokens, 0), setup.max_model_len);
  }
  return blocks_for(tokens) + o.max_num_seqs;  // a partly filled block per sequence
}

void check_limits(const EngineOptions& o) {
  if (o.max_num_seqs < 1) {
    throw_error(ErrorKind::kUsage, "--max-num-seqs {}: must be at least 1", o.max_num_seqs);
  }
  if (o.max_batched_tokens < o.max_num_seqs) {
    throw_error(ErrorKind::kUsage,
                "--max-num-batched-tokens {}: must be at least --max-num-seqs ({}), a row each",
                o.max_batched_tokens, o.max_num_seqs);
  }
  if (o.prompt_chunk < 0) {
    throw_error(ErrorKind::kUsage, "--prompt-chunk {}: must not be negative", o.prompt_chunk);
  }
  if (o.threads < 0)
    throw_error(ErrorKind::kUsage, "--threads {}: must not be negative", o.threads);
}

std::shared_ptr<const TensorSource> open_source(const EngineOptions& options,
                                                const ModelConfig& config) {
  if (options.load_format == "dummy") return nullptr;
  if (options.load_format != "auto") {
    throw_error(ErrorKind::kUsage, "--load-format '{}': expected auto or dummy",
                options.load_format);
  }
  std::shared_ptr<const TensorSource> source = open_checkpoint(options.model);
  check_tensors(config, *source);
  return source;
}

}  // namespace

int usable_cpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) {
    return std::max(1, int(std::thread::hardware_concurrency()));
  }
  return std::max(1, CPU_COUNT(&set));
}

int64_t available_memory() {
  std::ifstream info("/proc/meminfo");
  std::string key, unit;
  int64_t kilobytes = 0;
  while (info >> key >> kilobytes) {
    if (key == "MemAvailable:") return kilobytes * 1024;
    std::getline(info, unit);
  }
  return int64_t(sysconf(_SC_AVPHYS_PAGES)) * sysconf(_SC_PAGESIZE);
}

ShardLimits ReplicaSetup::shard_limits(FeatureRing* feature_ring) const {
  return {.max_sequences = options.max_num_seqs,
          .max_rows = options.max_batched_tokens,
          .max_positions = max_model_len,
          .kv_blocks = kv_blocks,
          .draft_setup = draft_setup.get(),
          .feature_ring = feature_ring};
}

DraftContext ReplicaSetup::draft_context() const {
  const bool on_gpu = draft_device == ShardDevice::kCuda;
  return {.vocabulary = config.vocabulary,
          .model = options.model,
          .load_format = options.load_format,
          .dtype = options.dtype == "float16" && !on_gpu ? "auto" : options.dtype,  // CPUs lack it
          .cpu_isa = options.cpu_isa,
          .threads = options.threads,
          .gpu = gpu_options(-1, options),
          .float16 = on_gpu,
          .max_sequences = options.max_num_seqs,
          .max_model_len = max_model_len > 0 ? max_model_len : options.max_model_len};
}

SchedulerOptions ReplicaSetup::scheduler_options() const {
  const int chunk = options.prompt_chunk == 0 ? options.max_batched_tokens : options.prompt_chunk;
  return {.max_sequences = options.max_num_seqs,
          .max_rows = options.max_batched_tokens,
          .prompt_chunk = std::min(chunk, options.max_batched_tokens),
          .kv_blocks = kv_blocks,
          .max_model_len = max_model_len,
          .vocabulary = config.vocabulary,
          .eos_tokens = {config.eos_tokens.begin(), config.eos_tokens.end()},
          .lookahead_count = draft_setup->get()->needs.lookahead_count};
}

CommunicatorOptions ReplicaSetup::communicator_options() const {
  return {.reduce_capacity = reduce_capacity(config, options.max_batched_tokens),
          .gather_capacity = gather_capacity(config.vocabulary, tp)};
}

ReplicaSetup prepare_replica(const EngineOptions& options, int tp, int shards_on_host,
                             int first_device) {
  ReplicaSetup setup;
  check_limits(options);
  setup.options = options;
  setup.device = choose_device(options.device);
  if (setup.device == ShardDevice::kCpu) refuse_gpu_flags(options);
  setup.draft_device = choose_draft_device(options, setup.device);
  setup.first_device = first_device;
  setup.config = ModelConfig::load(options.model);
  setup.tp = tp;
  setup.shards_on_host = shards_on_host;
  make_shard_plan(setup.config.extents(), tp, 0);  // throws if tp does not divide the model
  setup.dtype = weight_dtype(options.dtype, setup.config, setup.device == ShardDevice::kCuda);
  setup.isa = choose_isa(options.cpu_isa);
  setup.max_model_len = context_length(options, setup.config);
  setup.draft_setup->set(make_draft_support(options.drafter, setup.config));
  setup.source = open_source(options, setup.config);
  const int threads = options.threads == 0 ? usable_cpus() : options.threads;
  setup.threads = std::max(1, threads / shards_on_host);
  setup.kv_blocks = choose_blocks(setup);
  return setup;
}

ShardRank::ShardRank(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator)
    : config_(setup.config),
      plan_(make_shard_plan(config_.extents(), communicator->size(), communicator->rank())),
      backend_(setup.make_shard_backend()),
      communicator_(setup.make_communicator
                        ? setup.make_communicator(*backend_, std::move(communicator))
                        : communicator_for(*backend_, std::move(communicator), setup)),
      weights_(load_weights(
          *backend_, config_, plan_,
          setup.source != nullptr ? setup.source : std::make_shared<const DummySource>(config_),
          setup.dtype, setup.max_model_len)),
      feature_ring_(backend_->shares_host_memory() || plan_.rank > 0
                        ? nullptr
                        : std::make_shared<FeatureRing>(setup.options.max_num_seqs,
                                                        setup.options.max_batched_tokens)),
      executor_(std::make_unique<ShardExecutor>(*backend_, *communicator_, config_, plan_, weights_,
                                                setup.shard_limits(feature_ring_.get()))) {}

}  // namespace convoke
