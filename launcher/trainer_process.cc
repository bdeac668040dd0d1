#include "launcher/trainer_process.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "kernels/check.h"

namespace convoke {

int become_trainer(const std::vector<std::string>& arguments) {
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  const std::string program = (self.parent_path() / "convoke-train").string();
  std::vector<char*> argv{const_cast<char*>(program.c_str())};
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  // Threads of LibTorch that wait would hold a core that others, or their own team, need: on a busy
  // machine training then takes several times as long.
  setenv("OMP_WAIT_POLICY", "passive", 0);
  execv(program.c_str(), argv.data());
  if (errno == ENOENT) {
    throw_error(ErrorKind::kUsage,
                "{} is not there: training is an optional part, which ./run build training builds",
                program);
  }
  throw_error(ErrorKind::kResource, "{}: cannot be started: {}", program, std::strerror(errno));
}

}  // namespace convoke
