// The drafter in a process of its own: a child of the rank that keeps it, restarted when it dies.
// Since MPI ends a job when a rank dies, the drafter must not be the rank itself.
//
// The child runs this program again with the hidden command `drafter-worker`.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <chrono>
#include <cstdint>
#include <span>
#include <string>
#include <thread>
#include <vector>

#include "runtime/drafter.h"

namespace convoke {

struct DrafterWorkerOptions {
  std::string endpoint;  ///< the coordinator's mailbox
  std::string drafter;   ///< DrafterSpec::text()
  bool shared_noise = true;
  bool ahead = false;
  DraftContext context;
  uint32_t incarnation = 0;
  int32_t rank = 0;
  std::string host;
  std::string role = "drafter";
};

/// "--connect ENDPOINT --drafter SPEC ..." and back; parsing throws Error(kUsage).
std::vector<std::string> worker_arguments(const DrafterWorkerOptions& options);
DrafterWorkerOptions parse_worker_arguments(std::span<const std::string> arguments);

/// The whole life of the child. Returns its exit code: 0 when the coordinator sent Shutdown;
/// kWorkerHopeless when starting it again cannot help; else 1, and it will be started again.
/// Standard output is not for drafters: DrafterProcess points it to standard error.
int run_drafter_worker(const DrafterWorkerOptions& options);
inline constexpr int kWorkerHopeless = 3;

struct DrafterProcessOptions {
  DrafterWorkerOptions worker;
  std::vector<std::string>
      environment;  ///< all of the child's, "NAME=value", no launcher variables
  std::string executable = "/proc/self/exe";
  std::vector<std::string> command{"drafter-worker"};  ///< before the worker's arguments
  std::chrono::milliseconds first_backoff{100};        ///< doubled with each death in a row
  std::chrono::milliseconds longest_backoff{10000};    ///< a minute of life starts afresh
  std::chrono::milliseconds patience{500};  ///< at the end: for each of Shutdown, SIGTERM
};

/// Keeps one child alive, from a thread of its own. The child dies with that thread, and so with
/// the process, however the process dies.
class DrafterProcess {
 public:
  explicit DrafterProcess(DrafterProcessOptions options);
  ~DrafterProcess();  ///< stop()
  DrafterProcess(const DrafterProcess&) = delete;
  DrafterProcess& operator=(const DrafterProcess&) = delete;

  /// Waits shortly for the child to leave (the coordinator has sent it Shutdown), then sends
  /// SIGTERM, then SIGKILL. Bounded by about three times `patience`.
  void stop();

  pid_t pid() const { return pid_.load(); }  ///< 0 while there is none
  uint32_t starts() const { return starts_.load(); }
  bool hopeless() const { return hopeless_.load(); }  ///< it is not started again

 private:
  void keep();
  pid_t start_child();
  /// Its wait status, or nothing when `deadline` came first (or, unless `stopping`, stop()).
  bool wait_child(pid_t child, std::chrono::steady_clock::time_point deadline, bool stopping,
                  int& status);
  void end_child(pid_t child);
  bool pause(std::chrono::milliseconds duration);  ///< false when stopped meanwhile

  DrafterProcessOptions options_;
  int wake_fd_ = -1;
  std::atomic<bool> stopping_{false};
  std::atomic<pid_t> pid_{0};
  std::atomic<uint32_t> starts_{0};
  std::atomic<bool> hopeless_{false};
  std::thread keeper_;
};

}  // namespace convoke
