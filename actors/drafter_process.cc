#include "actors/drafter_process.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstring>

#include "actors/mailbox.h"
#include "kernels/check.h"

namespace convoke {
namespace {

using std::chrono::milliseconds;

std::string describe(int status) {
  if (WIFSIGNALED(status)) {
    return fmt::format("was ended by signal {} ({})", WTERMSIG(status),
                       ::strsignal(WTERMSIG(status)));
  }
  return fmt::format("ended with code {}", WEXITSTATUS(status));
}

std::vector<char*> pointers(std::vector<std::string>& strings) {
  std::vector<char*> result;
  for (std::string& s : strings) result.push_back(s.data());
  result.push_back(nullptr);
  return result;
}

/// The child's side of vfork: it borrows the parent's memory, so nothing but system calls on what
/// was prepared. Does not return.
[[noreturn]] void become_worker(const char* file, char* const* arguments, char* const* environment,
                                pid_t parent, int null_fd) {
  // With the keeper thread dies the child; if it died before this call, we were adopted.
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  ::dup2(null_fd, STDIN_FILENO);
  // Standard output belongs to the job's own output.
  ::dup2(STDERR_FILENO, STDOUT_FILENO);
  // Sockets, shared memory and pipes of the rank are not the child's business.
  ::syscall(SYS_close_range, 3u, ~0u, 0u);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  ::execve(file, arguments, environment);
  ::_exit(127);
}

/// vfork, not fork: copying the page tables of a rank that holds a large model takes long, and
/// so do the page faults afterwards. Not inlined, so that nothing in the caller's frame changes
/// under its feet.
[[gnu::noinline]] pid_t spawn(const char* file, char* const* arguments, char* const* environment,
                              int null_fd) {
  const pid_t parent = ::getpid();
  // A handler of ours must not run in the child while it shares our memory.
  sigset_t all, before;
  ::sigfillset(&all);
  ::pthread_sigmask(SIG_SETMASK, &all, &before);
  const pid_t child = ::vfork();
  if (child == 0) become_worker(file, arguments, environment, parent, null_fd);
  ::pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return child;
}

}  // namespace

DrafterProcess::DrafterProcess(DrafterProcessOptions options) : options_(std::move(options)) {
  wake_fd_ = ::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
  if (wake_fd_ < 0) {
    throw_error(ErrorKind::kResource, "cannot make an eventfd for the drafter's keeper: {}",
                std::strerror(errno));
  }
  keeper_ = std::thread([this] { keep(); });
}

DrafterProcess::~DrafterProcess() {
  stop();
  ::close(wake_fd_);
}

void DrafterProcess::stop() {
  stopping_.store(true);
  const uint64_t one = 1;
  (void)!::write(wake_fd_, &one, sizeof one);
  if (keeper_.joinable()) keeper_.join();
}

pid_t DrafterProcess::start_child() {
  options_.worker.incarnation = starts_.load();
  std::vector<std::string> arguments{"convoke"};
  arguments.insert(arguments.end(), options_.command.begin(), options_.command.end());
  for (std::string& argument : worker_arguments(options_.worker)) {
    arguments.push_back(std::move(argument));
  }
  const auto argument_pointers = pointers(arguments);
  const auto environment_pointers = pointers(options_.environment);
  const int null_fd = ::open("/dev/null", O_RDONLY | O_CLOEXEC);
  const pid_t child = spawn(options_.executable.c_str(), argument_pointers.data(),
                            environment_pointers.data(), null_fd);
  const int error = errno;
  if (null_fd >= 0) ::close(null_fd);
  if (child < 0) {
    spdlog::warn("cannot start a drafter process: {}", std::strerror(error));
    return 0;
  }
  starts_.fetch_add(1);
  pid_.store(child);
  return child;
}

bool DrafterProcess::wait_child(pid_t child, Clock::time_point deadline, bool stopping,
                                int& status) {
  // Where the kernel has no pidfd, look every 20 ms.
  const int pidfd = int(::syscall(SYS_pidfd_open, child, 0));
  bool ended = false;
  for (;;) {
    const pid_t reaped = ::waitpid(child, &status, WNOHANG);
    if (reaped < 0 && errno == ECHILD) status = 0xff00;  // somebody else reaped it
    ended = reaped == child || (reaped < 0 && errno == ECHILD);
    const auto now = Clock::now();
    if (ended || now >= deadline || (!stopping && stopping_.load())) break;
    auto left = std::chrono::ceil<milliseconds>(
        std::min<Clock::duration>(deadline - now, std::chrono::hours(1)));
    if (pidfd < 0) left = std::min(left, milliseconds(20));
    pollfd fds[2] = {{pidfd, POLLIN, 0}, {stopping ? -1 : wake_fd_, POLLIN, 0}};
    (void)::poll(fds, 2, int(left.count()));
  }
  if (pidfd >= 0) ::close(pidfd);
  if (ended) pid_.store(0);
  return ended;
}

void DrafterProcess::end_child(pid_t child) {
  int status = 0;
  const auto until = [&] { return Clock::now() + options_.patience; };
  if (wait_child(child, until(), true, status)) return;
  ::kill(child, SIGTERM);
  if (wait_child(child, until(), true, status)) return;
  spdlog::warn("the drafter process {} does not end: killing it", child);
  ::kill(child, SIGKILL);
  // A process that survives SIGKILL hangs in the kernel; waiting longer would not end it.
  if (!wait_child(child, Clock::now() + std::chrono::seconds(2), true, status)) pid_.store(0);
}

bool DrafterProcess::pause(milliseconds duration) {
  pollfd descriptor{wake_fd_, POLLIN, 0};
  const auto end = Clock::now() + duration;
  while (!stopping_.load() && Clock::now() < end) {
    (void)::poll(&descriptor, 1, int(std::chrono::ceil<milliseconds>(end - Clock::now()).count()));
  }
  return !stopping_.load();
}

void DrafterProcess::keep() {
  milliseconds backoff = options_.first_backoff;
  while (!stopping_.load()) {
    const auto born = Clock::now();
    const pid_t child = start_child();
    int status = 0;
    if (child > 0 && !wait_child(child, Clock::time_point::max(), false, status)) {
      end_child(child);
      return;
    }
    if (child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == kWorkerHopeless) {
      spdlog::error("the drafter cannot run (see above); decoding goes on without it");
      hopeless_.store(true);
      return;
    }
    const bool told_to_leave = child > 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0;
    if (told_to_leave || stopping_.load()) return;
    if (Clock::now() - born > std::chrono::minutes(1)) backoff = options_.first_backoff;
    if (child > 0) {
      spdlog::warn("the drafter process {} {}; it is started again in {} ms", child,
                   describe(status), backoff.count());
    }
    if (!pause(backoff)) return;
    backoff = std::min(2 * backoff, options_.longest_backoff);
  }
}

}  // namespace convoke
