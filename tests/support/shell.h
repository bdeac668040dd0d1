// Runs whole programs in tests: with a time limit, their output captured, nothing left behind.
#pragma once

#include <sys/types.h>

#include <chrono>
#include <filesystem>
#include <string>

#include "tests/support/model_directory.h"

namespace convoke::testing {

struct ShellResult {
  int exit_code = -1;  ///< 128 + signal if a signal ended it; -1 if the time limit did
  std::string out, err;
  double seconds = 0;
};

/// A program started by /bin/sh in a process group of its own.
class ShellProcess {
 public:
  explicit ShellProcess(const std::string& command);
  ~ShellProcess();  ///< kills the whole group
  ShellProcess(const ShellProcess&) = delete;
  ShellProcess& operator=(const ShellProcess&) = delete;

  pid_t pid() const { return pid_; }
  /// Waits for the end; kills the group at the limit.
  ShellResult wait(std::chrono::seconds limit);
  void kill(int signal);  ///< the whole group
  std::string err_so_far() const;

 private:
  pid_t pid_ = -1;
  bool reaped_ = false;
  TemporaryDirectory files_;
  std::chrono::steady_clock::time_point start_;
};

ShellResult shell(const std::string& command,
                  std::chrono::seconds limit = std::chrono::seconds(120));

/// "mpirun -np N ..." as tests need it: more ranks than cores, as root or not.
std::string mpirun(int ranks);
/// False where Open MPI's launcher is not installed.
bool have_mpirun();

/// Process ids whose command line contains `text`, this process excepted.
std::string processes_with(const std::string& text);

std::string read_file(const std::filesystem::path& path);

}  // namespace convoke::testing
