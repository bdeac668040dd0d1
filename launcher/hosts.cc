#include "launcher/hosts.h"

#include <spdlog/spdlog.h>

#include "actors/shard.h"
#include "actors/zmq_transport.h"
#include "kernels/check.h"

namespace convoke {

void FailureBoard::report(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (failed_.load()) return;  // the first reason is the cause, later ones are its consequences
    reason_ = reason;
    failed_.store(true);
  }
  if (on_failure_) on_failure_(reason);
}

std::string FailureBoard::reason() const {
  const std::lock_guard lock(mutex_);
  return reason_;
}

CoordinatorHost::CoordinatorHost(const ReplicaSetup& setup,
                                 std::unique_ptr<Communicator> communicator,
                                 std::vector<std::string> endpoints, std::string role,
                                 const StartGate& gate, FailureBoard& failures)
    : role_(std::move(role)),
      failures_(failures),
      ready_future_(ready_promise_.get_future().share()),
      thread_([this, &setup, &gate, communicator = std::move(communicator),
               endpoints = std::move(endpoints)]() mutable {
        run(setup, std::move(communicator), endpoints, gate);
      }) {}

void CoordinatorHost::run(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator,
                          const std::vector<std::string>& endpoints, const StartGate& gate) {
  bool ready = false;
  try {
    ShardRank rank(setup, std::move(communicator));
    const std::unique_ptr<Mailbox> mailbox = make_zmq_mailbox(endpoints);
    LeadingShard leader(rank.communicator(), rank.executor());
    CoordinatorOptions options;
    options.scheduler = setup.scheduler_options();
    options.draft_setup = setup.draft_setup.get();
    options.drafter_has_cores = setup.drafter_has_rank;
    options.draft_deadline =
        std::chrono::duration<double, std::milli>(setup.options.draft_deadline_ms);
    options.role = role_;
    Coordinator coordinator(*mailbox, leader, options, signals_);
    ready_ = {mailbox->endpoints(),
              rank.backend().describe(),
              rank.communicator().describe(),
              rank.weight_bytes(),
              {&rank.backend(), rank.shared_weights(), rank.feature_ring()}};
    ready_promise_.set_value();
    ready = true;
    if (!gate.wait()) return;
    try {
      coordinator.run();
      leader.finish();
    } catch (const Error& error) {
      rank.communicator().abort(error.what());
      throw;
    }
  } catch (const std::exception& error) {
    failures_.report(error.what());
    if (!ready) ready_promise_.set_exception(std::current_exception());
  }
}

const CoordinatorHost::Ready& CoordinatorHost::wait_ready() {
  ready_future_.get();
  return ready_;
}

void CoordinatorHost::join() {
  if (thread_.joinable()) thread_.join();
}

CoordinatorHost::~CoordinatorHost() {
  signals_.stop.store(true);
  join();
}

ShardHost::ShardHost(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator,
                     const StartGate& gate, FailureBoard& failures)
    : ready_future_(ready_promise_.get_future().share()),
      thread_([this, &setup, &gate, &failures, communicator = std::move(communicator)]() mutable {
        bool ready = false;
        try {
          ShardRank rank(setup, std::move(communicator));
          weight_bytes_ = rank.weight_bytes();
          ready_promise_.set_value();
          ready = true;
          if (gate.wait()) run_shard(rank.communicator(), rank.executor());
        } catch (const std::exception& error) {
          failures.report(error.what());
          if (!ready) ready_promise_.set_exception(std::current_exception());
        }
      }) {}

void ShardHost::wait_ready() {
  ready_future_.get();
}

void ShardHost::join() {
  if (thread_.joinable()) thread_.join();
}

ShardHost::~ShardHost() {
  join();
}

}  // namespace convoke
