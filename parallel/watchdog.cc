#include "parallel/watchdog.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cstdlib>
#include <utility>

#include "parallel/launcher_guard.h"

namespace convoke {

Watchdog::Watchdog(double seconds, std::string who, std::string what)
    : thread_([this, seconds, who = std::move(who), what = std::move(what)] {
        std::unique_lock lock(mutex_);
        const auto limit = std::chrono::duration<double>(seconds);
        if (left_.wait_for(lock, limit, [this] { return over_; })) return;
        const std::string text = fmt::format(
            "convoke: {}: {} did not return within {:.3g} s: a rank of the job is gone "
            "or stuck; ending this one\n",
            who, what, seconds);
        static_cast<void>(!write(STDERR_FILENO, text.data(), text.size()));
        end_launcher_after(5);
        _exit(EXIT_FAILURE);
      }) {}

Watchdog::~Watchdog() {
  {
    const std::lock_guard lock(mutex_);
    over_ = true;
  }
  left_.notify_one();
  thread_.join();
}

}  // namespace convoke
