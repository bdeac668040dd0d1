// The processes that the process tests start and kill.
//   drafter-worker ARGUMENTS...           as `convoke drafter-worker`
//   keeper ENDPOINT                       keeps a drafter process until killed
//   supervisor RANK SIZE FOLDER [MODE]    one rank of a job; MODE: "leave" says goodbye after a
//                                         second, "fail" reports a failure after a second
#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "actors/drafter_process.h"
#include "actors/supervisor.h"
#include "kernels/check.h"

extern char** environ;

namespace convoke {
namespace {

using std::chrono::milliseconds;

std::vector<std::string> environment() {
  std::vector<std::string> all;
  for (char** variable = environ; *variable; ++variable) all.push_back(*variable);
  return all;
}

int keep(const std::string& endpoint) {
  DrafterProcessOptions options;
  options.worker.endpoint = endpoint;
  options.worker.drafter = "ngram";
  options.worker.context.vocabulary = 10;
  options.environment = environment();
  DrafterProcess process(options);
  for (;;) ::pause();
}

std::string read_when_there(const std::filesystem::path& file) {
  for (int i = 0; i < 2000; ++i) {
    std::ifstream in(file);
    std::string text;
    if (std::getline(in, text) && !text.empty()) return text;
    std::this_thread::sleep_for(milliseconds(5));
  }
  throw_error(ErrorKind::kTimeout, "no {}", file.string());
}

int supervise(int rank, int size, const std::filesystem::path& folder, const std::string& mode) {
  std::atomic<int> end{-1};
  SupervisorOptions options;
  options.self = {rank, "h" + std::to_string(rank), "shard " + std::to_string(rank)};
  options.watch.silence = std::chrono::seconds(2);
  options.on_death = [&](const std::string& message) {
    std::ofstream(folder / ("death." + std::to_string(rank))) << message << "\n";
    end.store(9);
  };
  options.on_shutdown = [&](int signal) {
    std::ofstream(folder / ("shutdown." + std::to_string(rank))) << signal << "\n";
    if (mode != "stubborn") end.store(0);
  };
  Supervisor supervisor(options);
  // Written under another name first, so that nobody reads half of it.
  const auto mine = folder / ("endpoint." + std::to_string(rank));
  std::ofstream(mine.string() + ".new") << supervisor.endpoint() << "\n";
  std::filesystem::rename(mine.string() + ".new", mine);
  std::vector<SupervisorPeer> peers;
  for (int r = 0; r < size; ++r) {
    const auto name = std::to_string(r);
    peers.push_back(
        {{r, "h" + name, "shard " + name}, read_when_there(folder / ("endpoint." + name))});
  }
  supervisor.start(peers);
  std::ofstream(folder / ("started." + std::to_string(rank))) << "yes\n";
  const auto act = std::chrono::steady_clock::now() + std::chrono::seconds(1);
  bool acted = false;
  while (end.load() < 0) {
    std::this_thread::sleep_for(milliseconds(5));
    if (acted || std::chrono::steady_clock::now() < act) continue;
    acted = true;
    if (mode == "leave") end.store(0);
    if (mode == "fail") supervisor.fail("it has no memory left");
  }
  // The callback's thread is left behind on purpose where the job ends by force.
  if (end.load() != 0) std::_Exit(end.load());
  supervisor.leave();
  return 0;
}

int run(const std::vector<std::string>& arguments) {
  const std::string command = arguments.empty() ? "" : arguments[0];
  if (command == "drafter-worker") {
    return run_drafter_worker(parse_worker_arguments(std::span(arguments).subspan(1)));
  }
  if (command == "keeper") return keep(arguments.at(1));
  if (command == "supervisor") {
    return supervise(std::stoi(arguments.at(1)), std::stoi(arguments.at(2)), arguments.at(3),
                     arguments.size() > 4 ? arguments[4] : "");
  }
  return 64;
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  try {
    return convoke::run({argv + 1, argv + argc});
  } catch (const std::exception& error) {
    std::fprintf(stderr, "%s\n", error.what());
    return 65;
  }
}
