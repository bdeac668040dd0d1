// Bounds a call that cannot be interrupted, such as a blocking MPI collective: if the scope is not
// left in time, the process ends with a message. Nothing milder helps against such a call.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>

namespace convoke {

class Watchdog {
 public:
  /// After `seconds`: writes "convoke: <who>: <what> did not return within ... s" to standard error
  /// and ends the process with exit code 1 (and, if need be, the launcher).
  Watchdog(double seconds, std::string who, std::string what);
  ~Watchdog();
  Watchdog(const Watchdog&) = delete;
  Watchdog& operator=(const Watchdog&) = delete;

 private:
  std::mutex mutex_;
  std::condition_variable left_;
  bool over_ = false;
  std::thread thread_;
};

}  // namespace convoke
