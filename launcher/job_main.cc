// The life of a rank that is not the first of its job.
#include <thread>

#include "actors/zmq_transport.h"
#include "kernels/check.h"
#include "launcher/draft_device.h"
#include "launcher/drafter_host.h"
#include "launcher/engine.h"
#include "launcher/job_roles.h"

namespace convoke {
namespace {

/// When all ranks know that the job cannot start, the first one says why and its exit code is the
/// job's. If others failed too, the launcher might end the first before it has spoken.
constexpr int kQuietExit = 0;

/// Serves as one of shards 1.. until a plan says it was the last.
void serve_shard(JobMember& member, const ReplicaSetup& setup,
                 std::unique_ptr<Communicator> communicator) {
  StartGate gate;
  FailureBoard failures([&](const std::string& reason) { member.fail(reason); });
  ShardHost host(setup, std::move(communicator), gate, failures);
  const StartGate::Closer closer{gate};
  std::string error;
  try {
    host.wait_ready();
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  member.exchange("", error);  // everybody has loaded
  gate.open(true);
  host.join();
  if (failures.failed()) throw Error(ErrorKind::kPeer, failures.reason());
}

/// Serves as coordinator and shard 0 of a replica other than the first, until a front end is done.
void serve_coordinator(JobMember& member, const ReplicaSetup& setup,
                       std::unique_ptr<Communicator> communicator) {
  StartGate gate;
  FailureBoard failures([&](const std::string& reason) { member.fail(reason); });
  CoordinatorHost host(setup, std::move(communicator), member.coordinator_endpoints(),
                       member.describe(), gate, failures);
  const StartGate::Closer closer{gate};
  std::string endpoint, error;
  try {
    endpoint = host.wait_ready().endpoints.back();
  } catch (const std::exception& failure) {
    error = failure.what();
  }
  member.exchange(endpoint, error);
  gate.open(true);
  std::unique_ptr<DrafterHost> drafter;
  if (member.roles().drafter && !member.roles().drafter_ranks()) {
    const CoordinatorHost::Ready& ready = host.wait_ready();
    const std::string& placement = setup.options.drafter_placement;
    drafter = make_drafter_host(
        setup.options.drafter, placement, ready.endpoints,
        context_beside_shard(setup, placement, ready.shard, member.role().replica));
  }
  host.join();
  if (failures.failed()) throw Error(ErrorKind::kPeer, failures.reason());
}

/// Keeps the drafter's process alive until the replica ends.
void serve_drafter(JobMember& member, const ReplicaSetup& setup) {
  const std::vector<std::string> endpoints = member.exchange("", "");
  const std::string& endpoint =
      endpoints[size_t(member.roles().coordinator_of(member.role().replica))];
  DraftContext context = setup.draft_context();
  if (setup.draft_device == ShardDevice::kCuda) context.gpu.device = member.draft_gpu();
  const auto drafter = make_drafter_process(setup.options.drafter, endpoint, context, member.rank(),
                                            member.describe());
  // The coordinator tells whoever sends it heartbeats when it ends. That the coordinator could die
  // is the supervisor's business.
  const std::unique_ptr<Link> link = make_zmq_link(endpoint);
  Heartbeat heartbeat{member.rank(), member.job().host(), member.describe(), 0};
  for (;;) {
    ++heartbeat.count;
    link->send(heartbeat);
    const auto letter = link->receive(Clock::now() + std::chrono::milliseconds(500));
    if (letter && std::holds_alternative<Shutdown>(letter->message)) return;
  }
}

int serve(JobMember& member, const EngineOptions& options) {
  const ReplicaSetup setup = member.agree_on_setup(options);
  auto communicator = member.make_communicator(setup);
  member.start_supervisor(/*signals=*/true);
  const Role& role = member.role();
  if (role.kind == Role::Kind::kDrafter) {
    serve_drafter(member, setup);
  } else if (role.tp_rank == 0) {
    serve_coordinator(member, setup, std::move(communicator));
  } else {
    serve_shard(member, setup, std::move(communicator));
  }
  member.finish();
  return 0;
}

}  // namespace

std::optional<int> run_as_worker_rank(const EngineOptions& options) {
  JobMember* member = nullptr;
  try {
    member = JobMember::join(options);
  } catch (const Error&) {
    const auto launch = detect_launch(process_environment());
    if (launch && launch->rank != 0) return kQuietExit;
    throw;
  }
  if (member == nullptr || member->rank() == 0) return std::nullopt;
  try {
    return serve(*member, options);
  } catch (const Error&) {
    if (member->agreed_to_fail()) {  // known to all ranks; the first one prints it
      member->finish();
      return kQuietExit;
    }
    // A later failure has been passed to the supervisor, which prints one message and ends the job.
    // Give it the time.
    std::this_thread::sleep_for(std::chrono::seconds(5));
    member->job().kill(1);
  }
}

}  // namespace convoke
