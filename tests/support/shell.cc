#include "tests/support/shell.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <fstream>
#include <sstream>
#include <thread>

#include "kernels/check.h"

namespace convoke::testing {

using std::chrono::steady_clock;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

ShellProcess::ShellProcess(const std::string& command) : start_(steady_clock::now()) {
  const std::string out = (files_.path() / "out").string();
  const std::string err = (files_.path() / "err").string();
  pid_ = fork();
  CONVOKE_CHECK(pid_ >= 0);
  if (pid_ == 0) {
    setpgid(0, 0);
    const int in_fd = open("/dev/null", O_RDONLY);
    const int out_fd = open(out.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    const int err_fd = open(err.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0600);
    dup2(in_fd, 0);
    dup2(out_fd, 1);
    dup2(err_fd, 2);
    execl("/bin/sh", "sh", "-c", ("exec " + command).c_str(), static_cast<char*>(nullptr));
    _exit(127);
  }
  setpgid(pid_, pid_);  // whoever comes first: no race with kill()
}

ShellProcess::~ShellProcess() {
  if (!reaped_) {
    kill(SIGKILL);
    waitpid(pid_, nullptr, 0);
  }
}

void ShellProcess::kill(int signal) {
  ::kill(-pid_, signal);
}

std::string ShellProcess::err_so_far() const {
  return read_file(files_.path() / "err");
}

ShellResult ShellProcess::wait(std::chrono::seconds limit) {
  const auto deadline = start_ + limit;
  ShellResult result;
  int status = 0;
  while (waitpid(pid_, &status, WNOHANG) == 0) {
    if (steady_clock::now() > deadline) {
      kill(SIGKILL);
      waitpid(pid_, &status, 0);
      status = -1;
      break;
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  reaped_ = true;
  if (status != -1) {
    result.exit_code = WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }
  result.out = read_file(files_.path() / "out");
  result.err = read_file(files_.path() / "err");
  result.seconds = std::chrono::duration<double>(steady_clock::now() - start_).count();
  return result;
}

ShellResult shell(const std::string& command, std::chrono::seconds limit) {
  return ShellProcess(command).wait(limit);
}

std::string mpirun(int ranks) {
  // Without yielding, waiting ranks would keep working ones off the few cores of a test machine.
  return fmt::format(
      "env OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_btl=self,vader mpirun --oversubscribe --bind-to "
      "none{} -np {} ",
      geteuid() == 0 ? " --allow-run-as-root" : "", ranks);
}

bool have_mpirun() {
  return shell("sh -c 'command -v mpirun'").exit_code == 0;
}

std::string processes_with(const std::string& text) {
  std::string found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string pid = entry.path().filename();
    if (pid.find_first_not_of("0123456789") != std::string::npos) continue;
    if (pid == std::to_string(getpid())) continue;
    std::string command = read_file(entry.path() / "cmdline");
    for (char& c : command) c = c == '\0' ? ' ' : c;
    if (command.find(text) != std::string::npos) found += pid + ": " + command + "\n";
  }
  return found;
}

}  // namespace convoke::testing
