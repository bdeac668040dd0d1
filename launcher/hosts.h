// The threads that actors live on. A host owns one actor and everything it needs; its constructor
// returns when the actor is ready and throws what kept it from becoming so.
#pragma once

#include <atomic>
#include <functional>
#include <future>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "actors/coordinator.h"
#include "actors/mailbox.h"
#include "launcher/draft_device.h"
#include "launcher/replica.h"

namespace convoke {

/// The first failure in a job, told to whoever waits. Any thread may report or ask.
class FailureBoard {
 public:
  /// `on_failure` is called with the first reason, by the thread that reports it.
  explicit FailureBoard(std::function<void(const std::string&)> on_failure = {})
      : on_failure_(std::move(on_failure)) {}
  void report(const std::string& reason);
  bool failed() const { return failed_.load(); }
  std::string reason() const;

 private:
  std::function<void(const std::string&)> on_failure_;
  std::atomic<bool> failed_{false};
  mutable std::mutex mutex_;
  std::string reason_;
};

/// Loading takes as long as it takes, but collectives have deadlines: actors load, report ready,
/// and begin to talk only when everybody is (true) or give up (false).
class StartGate {
 public:
  StartGate() : future_(promise_.get_future().share()) {}
  ~StartGate() { open(false); }
  void open(bool go) {
    if (!opened_.exchange(true)) promise_.set_value(go);
  }
  bool wait() const { return future_.get(); }

  /// Gives up at the end of a scope unless the gate was opened: declared after the hosts, it lets
  /// their threads go before they are joined when something throws.
  struct Closer {
    StartGate& gate;
    ~Closer() { gate.open(false); }
  };

 private:
  std::promise<bool> promise_;
  std::shared_future<bool> future_;
  std::atomic<bool> opened_{false};
};

/// Coordinator and shard 0 of a replica, on a thread of their own.
class CoordinatorHost {
 public:
  struct Ready {
    std::vector<std::string> endpoints;
    std::string backend, communicator;
    int64_t weight_bytes = 0;
    SharedShard shard;  ///< of shard 0, as long as the host lives
  };
  CoordinatorHost(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator,
                  std::vector<std::string> endpoints, std::string role, const StartGate& gate,
                  FailureBoard& failures);
  /// Asks the coordinator to stop and waits for it.
  ~CoordinatorHost();

  /// Waits until weights are loaded and the mailbox is bound. Throws what went wrong.
  const Ready& wait_ready();
  CoordinatorSignals& signals() { return signals_; }
  void join();

 private:
  void run(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator,
           const std::vector<std::string>& endpoints, const StartGate& gate);

  std::string role_;
  FailureBoard& failures_;
  Ready ready_;
  std::promise<void> ready_promise_;
  std::shared_future<void> ready_future_;
  CoordinatorSignals signals_;
  std::thread thread_;
};

/// One of shards 1.. of a replica, on a thread of its own (several ranks in one process).
class ShardHost {
 public:
  ShardHost(const ReplicaSetup& setup, std::unique_ptr<Communicator> communicator,
            const StartGate& gate, FailureBoard& failures);
  ~ShardHost();
  void join();
  void wait_ready();
  int64_t weight_bytes() const { return weight_bytes_; }

 private:
  std::promise<void> ready_promise_;
  std::shared_future<void> ready_future_;
  int64_t weight_bytes_ = 0;
  std::thread thread_;
};

}  // namespace convoke
