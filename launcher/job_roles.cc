#include "launcher/job_roles.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netdb.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <optional>

#include "kernels/check.h"
#include "launcher/draft_device.h"

namespace convoke {
namespace {

std::unique_ptr<JobMember>& member_slot() {
  static std::unique_ptr<JobMember> member;
  return member;
}

std::string text_of(const in_addr& address) {
  char text[INET_ADDRSTRLEN];
  return inet_ntop(AF_INET, &address, text, sizeof text) == nullptr ? "" : text;
}

bool is_loopback(const in_addr& address) {
  return (ntohl(address.s_addr) >> 24) == 127;
}

/// Address of the named interface, or of the first that is up and not loopback when `name` is
/// empty.
std::string interface_address(const std::string& name) {
  ifaddrs* list = nullptr;
  if (getifaddrs(&list) != 0) return "";
  std::string found;
  for (ifaddrs* i = list; i != nullptr && found.empty(); i = i->ifa_next) {
    if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != AF_INET) continue;
    const in_addr address = reinterpret_cast<sockaddr_in*>(i->ifa_addr)->sin_addr;
    const bool wanted =
        name.empty() ? (i->ifa_flags & IFF_UP) != 0 && !is_loopback(address) : name == i->ifa_name;
    if (wanted) found = text_of(address);
  }
  freeifaddrs(list);
  return found;
}

std::string resolved_host_name() {
  char name[256] = {};
  if (gethostname(name, sizeof name - 1) != 0) return "";
  addrinfo hints{};
  hints.ai_family = AF_INET;
  addrinfo* list = nullptr;
  if (getaddrinfo(name, nullptr, &hints, &list) != 0) return "";
  std::string found;
  for (addrinfo* i = list; i != nullptr && found.empty(); i = i->ai_next) {
    const in_addr address = reinterpret_cast<sockaddr_in*>(i->ai_addr)->sin_addr;
    // Debian names the host itself 127.0.1.1: of no use to others.
    if (!is_loopback(address)) found = text_of(address);
  }
  freeaddrinfo(list);
  return found;
}

}  // namespace

std::string host_address() {
  if (const char* name = std::getenv("CONVOKE_INTERFACE"); name != nullptr && *name != '\0') {
    const std::string address = interface_address(name);
    if (address.empty()) {
      throw_error(ErrorKind::kUsage, "CONVOKE_INTERFACE={}: no such interface with an IPv4 address",
                  name);
    }
    return address;
  }
  std::string address = resolved_host_name();
  if (address.empty()) address = interface_address("");
  if (address.empty()) {
    throw_error(
        ErrorKind::kResource,
        "this host has no IPv4 address that other hosts could reach; set CONVOKE_INTERFACE");
  }
  return address;
}

JobMember* JobMember::current() {
  return member_slot().get();
}

JobMember* JobMember::join(const EngineOptions& options) {
  if (current() != nullptr) return current();
  // Loading a large model takes minutes, and not the same on every host; a rank that dies meanwhile
  // is the supervisor's business.
  std::unique_ptr<Job> job = Job::start({.deadline_seconds = 1800});
  if (!job->launched()) return nullptr;
  try {
    RoleRequest request;
    request.world_size = job->size();
    request.tp = options.tp;
    request.replicas = options.replicas;
    request.wants_drafter = options.drafter.method != "none";
    request.placement = parse_drafter_placement(options.drafter_placement);
    Roles roles = assign_roles(request);
    member_slot().reset(new JobMember(std::move(job), std::move(roles)));
  } catch (const Error&) {
    job->finish();  // all ranks find the same fault: an orderly end, and one message
    throw;
  }
  return current();
}

std::vector<std::string> JobMember::exchange(const std::string& mine, const std::string& error) {
  const nlohmann::json message{{"value", mine}, {"error", error}, {"host", job_->host()}};
  std::vector<std::string> values;
  std::string first_error;
  const std::vector<std::string> all = job_->all_gather(message.dump());
  for (size_t r = 0; r < all.size(); ++r) {
    const auto reply = nlohmann::json::parse(all[r]);
    values.push_back(reply.at("value"));
    const std::string reason = reply.at("error");
    if (reason.empty() || !first_error.empty()) continue;
    // One message, whether one rank or all of them fail for the same reason.
    const bool everywhere = std::ranges::all_of(all, [&](const std::string& text) {
      return nlohmann::json::parse(text).at("error") == reason;
    });
    first_error = everywhere
                      ? reason
                      : fmt::format("rank {} (host {}, {}): {}", r, std::string(reply.at("host")),
                                    roles_.describe(int(r)), reason);
  }
  if (!first_error.empty()) {
    agreed_to_fail_ = true;
    throw Error(ErrorKind::kPeer, first_error);
  }
  return values;
}

ReplicaSetup JobMember::agree_on_setup(const EngineOptions& options) {
  ReplicaSetup setup;
  std::string error;
  const bool shard = role().kind == Role::Kind::kShard;
  try {
    if (shard) {
      EngineOptions placed = options;
      if (roles_.drafter_ranks()) placed.drafter_placement = "rank";  // whatever "auto" became
      setup = prepare_replica(placed, roles_.tp, int(job_->shared_host_ranks().size()),
                              ranks_on_host(Role::Kind::kShard, rank()));
    } else {
      setup.options = options;
      setup.config = ModelConfig::load(options.model);
      setup.draft_device = choose_draft_device_of_rank(options);
    }
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  setup.drafter_has_rank = roles_.drafter_ranks();
  nlohmann::json mine = nlohmann::json::object();
  if (shard && error.empty()) {
    mine = {{"isa", int(setup.isa)}, {"blocks", setup.kv_blocks}, {"device", int(setup.device)}};
  }
  std::optional<nlohmann::json> first;
  for (const std::string& text : exchange(mine.dump(), error)) {
    const auto other = nlohmann::json::parse(text);
    if (!other.contains("isa")) continue;
    if (!first) first = other;
    if (other.at("device") != first->at("device")) {
      agreed_to_fail_ = true;  // every rank, drafters' too, finds it here
      throw_error(ErrorKind::kUsage,
                  "some ranks of this job have a GPU and some have not: say --device cpu, or start "
                  "shards only where there are GPUs");
    }
    if (!shard) continue;
    // The lowest common instruction set: a job's bits must not depend on the host.
    setup.isa = std::min(setup.isa, cpu::Isa(other.at("isa").get<int>()));
    setup.kv_blocks = std::min(setup.kv_blocks, other.at("blocks").get<int32_t>());
  }
  return setup;
}

int JobMember::ranks_on_host(Role::Kind kind, int end) const {
  return int(std::ranges::count_if(job_->shared_host_ranks(), [&](int other) {
    return other < end && roles_.ranks[size_t(other)].kind == kind;
  }));
}

int JobMember::draft_gpu() const {
  return choose_draft_gpu(usable_gpus(), ranks_on_host(Role::Kind::kShard, job_->size()),
                          ranks_on_host(Role::Kind::kDrafter, rank()));
}

std::unique_ptr<Communicator> JobMember::make_communicator(const ReplicaSetup& setup) {
  // One collective call: every rank names the ranks of its own replica; drafter ranks name
  // themselves.
  const std::vector<int> members = role().kind == Role::Kind::kShard
                                       ? roles_.shards_of(role().replica)
                                       : std::vector<int>{rank()};
  auto communicator = job_->make_communicator(members, setup.communicator_options());
  return role().kind == Role::Kind::kShard ? std::move(communicator) : nullptr;
}

std::string JobMember::outside_endpoint() const {
  const bool one_host = int(job_->shared_host_ranks().size()) == job_->size();
  return one_host ? "ipc://*" : "tcp://" + host_address() + ":*";
}

std::vector<std::string> JobMember::coordinator_endpoints() const {
  // inproc for a front end or drafter in this very process; the other for everybody else.
  return {fmt::format("inproc://coordinator-{}", role().replica), outside_endpoint()};
}

void JobMember::start_supervisor(bool signals) {
  SupervisorOptions options;
  options.self = {rank(), job_->host(), describe()};
  options.bind = outside_endpoint();
  options.handle_signals = signals;
  // The message has been printed: nothing more is to be said, and nothing can be saved.
  options.on_death = [this](const std::string&) { job_->kill(1); };
  options.on_shutdown = [](int) {};
  supervisor_ = std::make_unique<Supervisor>(std::move(options));
  const std::vector<std::string> endpoints = exchange(supervisor_->endpoint(), "");
  std::vector<SupervisorPeer> peers;
  for (size_t r = 0; r < endpoints.size(); ++r) {
    peers.push_back({{int32_t(r), job_->hosts()[r], roles_.describe(int(r))}, endpoints[r]});
  }
  supervisor_->start(std::move(peers));
}

void JobMember::fail(const std::string& reason) {
  if (supervisor_ != nullptr) supervisor_->fail(reason);
}

void JobMember::finish() {
  if (supervisor_ != nullptr) supervisor_->leave();
  job_->finish();
}

}  // namespace convoke
