#include "launcher/engine.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <unordered_map>

#include "actors/zmq_transport.h"
#include "kernels/check.h"
#include "launcher/draft_device.h"
#include "launcher/drafter_host.h"
#include "launcher/floor.h"
#include "launcher/hosts.h"
#include "launcher/job_roles.h"
#include "launcher/replica.h"

namespace convoke {
namespace {

constexpr std::chrono::milliseconds kReceiveSlice{100};
constexpr std::chrono::seconds kDrafterPatience{300};

/// The connection to one replica's coordinator.
struct ReplicaLink {
  std::unique_ptr<Link> link;
  int64_t outstanding = 0;  ///< tokens that its live requests may still need
};

class RunningEngine : public Engine {
 public:
  explicit RunningEngine(const EngineOptions& options);
  ~RunningEngine() override { shutdown(); }

  const ModelConfig& config() const override { return setup_.config; }
  const Tokenizer& tokenizer() const override;
  const EngineInfo& info() const override { return info_; }
  void submit(const SubmitRequest& request) override;
  void cancel(uint64_t request) override;
  std::optional<RequestOutput> receive(Clock::time_point deadline) override;
  void use_drafter(const DrafterSpec& spec) override;
  FloorReport measure_floor(std::span<const int> row_counts) override;
  void shutdown() override;

 private:
  struct Route {
    size_t replica = 0;
    int64_t weight = 0;
  };

  /// Takes over what was prepared and reads the tokenizer.
  void adopt(ReplicaSetup setup, int tp, int replicas);
  void start_alone();
  void start_on_first_rank();
  void start_drafter(const DrafterSpec& spec);
  void check_failure() const;
  std::optional<RequestOutput> take(size_t replica, Clock::time_point deadline);

  EngineOptions options_;
  ReplicaSetup setup_;
  EngineInfo info_;
  mutable std::unique_ptr<Tokenizer> tokenizer_;
  JobMember* member_ = nullptr;  ///< null when alone
  FailureBoard failures_{[this](const std::string& reason) {
    if (member_ != nullptr) member_->fail(reason);
  }};
  StartGate gate_;
  // Destroyed in reverse order: links first, then drafters, coordinators, shards.
  std::vector<std::unique_ptr<ShardHost>> shards_;
  std::vector<std::unique_ptr<CoordinatorHost>> coordinators_;  ///< those of this process
  StartGate::Closer closer_{gate_};                             ///< if the constructor throws
  std::vector<std::string> endpoints_;                          ///< of all replicas' coordinators
  std::vector<std::unique_ptr<DrafterHost>> drafters_;
  std::vector<ReplicaLink> links_;
  std::unordered_map<uint64_t, Route> routes_;
  size_t next_replica_ = 0;  ///< where receive() looks first: replicas take turns
  bool down_ = false;
};

RunningEngine::RunningEngine(const EngineOptions& options) : options_(options) {
  member_ = JobMember::join(options_);
  if (member_ == nullptr) {
    start_alone();
  } else {
    try {
      start_on_first_rank();
    } catch (const Error&) {
      if (member_->agreed_to_fail()) {
        gate_.open(false);
        coordinators_.clear();
        member_->finish();
      }
      throw;
    }
  }
  for (const std::string& endpoint : endpoints_) {
    links_.push_back({make_zmq_link(endpoint), 0});
  }
}

void RunningEngine::adopt(ReplicaSetup setup, int tp, int replicas) {
  setup_ = std::move(setup);
  info_.tp = tp;
  info_.replicas = replicas;
  info_.kv_cache_tokens = setup_.kv_cache_tokens();
  info_.max_model_len = setup_.max_model_len;
  // A fault in it is told before any weights are loaded. Dummy models need not have one.
  if (options_.load_format != "dummy") tokenizer();
}

void RunningEngine::start_alone() {
  const int tp = options_.tp == 0 ? 1 : options_.tp;
  if (options_.drafter_placement == "rank") {
    throw_error(ErrorKind::kUsage,
                "--drafter-placement rank needs ranks: start with mpirun or srun, or use thread "
                "or process");
  }
  if (options_.replicas < 1) {
    throw_error(ErrorKind::kUsage, "--replicas {}: must be at least 1", options_.replicas);
  }
  adopt(prepare_replica(options_, tp, tp * options_.replicas), tp, options_.replicas);
  for (int r = 0; r < options_.replicas; ++r) {
    auto ranks = tp == 1 ? std::vector<std::unique_ptr<Communicator>>{}
                         : make_thread_communicators(tp, setup_.communicator_options());
    if (tp == 1) ranks.push_back(make_single_communicator(setup_.communicator_options()));
    const std::vector<std::string> endpoints{"inproc://coordinator-" + std::to_string(r),
                                             "ipc://*"};
    coordinators_.push_back(std::make_unique<CoordinatorHost>(
        setup_, std::move(ranks[0]), endpoints, fmt::format("coordinator of replica {}", r), gate_,
        failures_));
    for (int t = 1; t < tp; ++t) {
      shards_.push_back(
          std::make_unique<ShardHost>(setup_, std::move(ranks[size_t(t)]), gate_, failures_));
    }
  }
  for (auto& host : coordinators_) {
    const CoordinatorHost::Ready& ready = host->wait_ready();
    endpoints_.push_back(ready.endpoints.front());
    info_.backend = ready.backend;
    info_.communicator = ready.communicator;
    info_.weight_bytes_per_pass += ready.weight_bytes;
  }
  for (auto& shard : shards_) {
    shard->wait_ready();
    info_.weight_bytes_per_pass += shard->weight_bytes();
  }
  info_.weight_bytes_per_pass /= options_.replicas;
  gate_.open(true);
  start_drafter(options_.drafter);
}

void RunningEngine::start_on_first_rank() {
  const Roles& roles = member_->roles();
  adopt(member_->agree_on_setup(options_), roles.tp, roles.replicas);
  auto communicator = member_->make_communicator(setup_);
  member_->start_supervisor(/*signals=*/false);
  coordinators_.push_back(std::make_unique<CoordinatorHost>(setup_, std::move(communicator),
                                                            member_->coordinator_endpoints(),
                                                            member_->describe(), gate_, failures_));
  std::string endpoint, error;
  try {
    const CoordinatorHost::Ready& ready = coordinators_[0]->wait_ready();
    endpoint = ready.endpoints.back();
    info_.backend = ready.backend;
    info_.communicator = ready.communicator;
    info_.weight_bytes_per_pass = ready.weight_bytes * roles.tp;
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  const std::vector<std::string> all = member_->exchange(endpoint, error);
  endpoints_.push_back(coordinators_[0]->wait_ready().endpoints.front());
  for (int r = 1; r < roles.replicas; ++r) {
    endpoints_.push_back(all[size_t(roles.coordinator_of(r))]);
  }
  info_.distributed = true;
  gate_.open(true);
  if (roles.drafter && !roles.drafter_ranks()) start_drafter(options_.drafter);
}

const Tokenizer& RunningEngine::tokenizer() const {
  if (tokenizer_ == nullptr) tokenizer_ = Tokenizer::load(options_.model);
  return *tokenizer_;
}

void RunningEngine::check_failure() const {
  if (failures_.failed()) throw Error(ErrorKind::kPeer, failures_.reason());
}

void RunningEngine::submit(const SubmitRequest& request) {
  check_failure();
  const auto least = std::ranges::min_element(links_, {}, &ReplicaLink::outstanding);
  const auto weight = int64_t(request.prompt.size()) + request.sampling.max_tokens;
  if (!least->link->send(request)) {
    throw_error(ErrorKind::kPeer, "replica {} does not take requests", least - links_.begin());
  }
  least->outstanding += weight;
  routes_[request.request] = {size_t(least - links_.begin()), weight};
}

void RunningEngine::cancel(uint64_t request) {
  const auto route = routes_.find(request);
  if (route == routes_.end()) return;
  links_[route->second.replica].link->send(CancelRequest{request});
}

std::optional<RequestOutput> RunningEngine::take(size_t replica, Clock::time_point deadline) {
  std::optional<Letter> letter = links_[replica].link->receive(deadline);
  if (!letter) return std::nullopt;
  if (const auto* fault = std::get_if<Fault>(&letter->message)) {
    failures_.report(fault->reason);
    check_failure();
  }
  auto* output = std::get_if<RequestOutput>(&letter->message);
  if (output == nullptr) return std::nullopt;
  if (output->finish != FinishReason::kNone) {
    const auto route = routes_.find(output->request);
    if (route != routes_.end()) {
      links_[replica].outstanding -= route->second.weight;
      routes_.erase(route);
    }
  }
  return std::move(*output);
}

std::optional<RequestOutput> RunningEngine::receive(Clock::time_point deadline) {
  for (;;) {
    // What is there already comes first, so that finished work survives a failure.
    for (size_t i = 0; i < links_.size(); ++i) {
      const size_t replica = (next_replica_ + i) % links_.size();
      if (auto output = take(replica, Clock::now())) {
        next_replica_ = (replica + 1) % links_.size();
        return output;
      }
    }
    check_failure();
    const Clock::time_point now = Clock::now();
    if (now >= deadline) return std::nullopt;
    // With several replicas none may be waited for long.
    const auto slice = links_.size() == 1 ? kReceiveSlice : std::chrono::milliseconds(1);
    next_replica_ = (next_replica_ + 1) % links_.size();
    if (auto output = take(next_replica_, std::min(deadline, now + slice))) return output;
  }
}

void RunningEngine::start_drafter(const DrafterSpec& spec) {
  if (spec.method == "none") return;
  for (size_t r = 0; r < coordinators_.size(); ++r) {
    CoordinatorHost& host = *coordinators_[r];
    const uint32_t seen = host.signals().drafters_seen.load();
    const CoordinatorHost::Ready& ready = host.wait_ready();
    drafters_.push_back(make_drafter_host(
        spec, options_.drafter_placement, ready.endpoints,
        context_beside_shard(setup_, options_.drafter_placement, ready.shard, int(r))));
    const Clock::time_point patience = Clock::now() + kDrafterPatience;
    while (host.signals().drafters_seen.load() == seen) {
      check_failure();
      if (Clock::now() > patience) {
        throw_error(ErrorKind::kTimeout, "the drafter '{}' did not become ready within {} s",
                    spec.text(), kDrafterPatience.count());
      }
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
}

void RunningEngine::use_drafter(const DrafterSpec& spec) {
  if (info_.distributed) {
    throw_error(ErrorKind::kUsage, "drafters can only be exchanged in a job of one process");
  }
  drafters_.clear();
  for (auto& host : coordinators_) {
    while (host->signals().drafter_connected.load()) {
      check_failure();
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
  }
  setup_.draft_setup->set(make_draft_support(spec, setup_.config));
  start_drafter(spec);
}

FloorReport RunningEngine::measure_floor(std::span<const int> row_counts) {
  if (setup_.device != ShardDevice::kCpu) {
    throw_error(ErrorKind::kUsage,
                "the floor of a pass is measured on CPUs only: leave --floor out, or take --device "
                "cpu");
  }
  return convoke::measure_floor(*this, setup_, row_counts);
}

void RunningEngine::shutdown() {
  if (std::exchange(down_, true)) return;
  gate_.open(false);
  drafters_.clear();
  for (ReplicaLink& replica : links_) replica.link->send(Shutdown{"the work is done"});
  for (auto& host : coordinators_) host.reset();
  shards_.clear();
  links_.clear();
  if (member_ != nullptr && !failures_.failed()) member_->finish();
}

}  // namespace

std::unique_ptr<Engine> start_engine(const EngineOptions& options) {
  return std::make_unique<RunningEngine>(options);
}

}  // namespace convoke
