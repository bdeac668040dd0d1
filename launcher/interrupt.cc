#include "launcher/interrupt.h"

#include <csignal>

namespace convoke {

namespace {

std::atomic<int> interrupt_signal{0};
static_assert(std::atomic<int>::is_always_lock_free);

void remember(int signal) {
  interrupt_signal.store(signal, std::memory_order_relaxed);
}

}  // namespace

const std::atomic<int>& watch_interrupts() {
  struct sigaction action = {};
  action.sa_handler = remember;
  action.sa_flags = int(SA_RESETHAND);  // no SA_RESTART: a read of standard input shall return
  sigemptyset(&action.sa_mask);
  sigaction(SIGINT, &action, nullptr);
  sigaction(SIGTERM, &action, nullptr);
  std::signal(SIGPIPE, SIG_IGN);
  return interrupt_signal;
}

}  // namespace convoke
