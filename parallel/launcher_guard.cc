#include "parallel/launcher_guard.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <initializer_list>

namespace convoke {
namespace {

bool is_open_mpi(pid_t process) {
  char path[64];
  std::snprintf(path, sizeof path, "/proc/%d/comm", int(process));
  const int file = open(path, O_RDONLY | O_CLOEXEC);
  if (file < 0) return false;
  char name[32] = {};
  const ssize_t length = read(file, name, sizeof name - 1);
  close(file);
  if (length <= 0) return false;
  name[strcspn(name, "\n")] = '\0';
  for (const char* known : {"mpirun", "mpiexec", "orterun", "orted", "prterun", "prted"}) {
    if (std::strcmp(name, known) == 0) return true;
  }
  return false;
}

// Asks twice, as a person would press ctrl-c twice: the second time Open MPI stops waiting for its
// daemons and cleans up. Only calls that are safe after fork() in a process with threads.
[[noreturn]] void watch(int launcher, int milliseconds) {
  pollfd ended{launcher, POLLIN, 0};
  for (const int sig : {SIGTERM, SIGTERM, SIGKILL}) {
    int found = 0;
    do {
      found = poll(&ended, 1, milliseconds);
    } while (found < 0 && errno == EINTR);
    if (found != 0) _exit(0);
    syscall(SYS_pidfd_send_signal, launcher, sig, nullptr, 0);
    milliseconds = 300;
  }
  _exit(0);
}

}  // namespace

void end_launcher_after(double seconds) noexcept {
  const pid_t parent = getppid();
  if (!is_open_mpi(parent)) return;
  // A descriptor, since a process id may be given to another process meanwhile.
  const auto launcher = int(syscall(SYS_pidfd_open, parent, 0));
  if (launcher < 0) return;
  if (getppid() != parent) {
    close(launcher);
    return;
  }
  const pid_t guard = fork();
  if (guard == 0) {
    setsid();
    // Not even an inherited pipe: the launcher waits for its end.
    const auto kept = unsigned(launcher);
    if (kept > 0) syscall(SYS_close_range, 0U, kept - 1, 0U);
    syscall(SYS_close_range, kept + 1, ~0U, 0U);
    watch(launcher, int(seconds * 1000));
  }
  // A launcher kills the whole process group of a rank that aborts: the guard must have left it
  // before this rank goes on, which may take a while on a busy machine.
  for (int i = 0; guard > 0 && getsid(guard) != guard && i < 1000; ++i) usleep(1000);
  close(launcher);
}

}  // namespace convoke
