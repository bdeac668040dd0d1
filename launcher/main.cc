#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "actors/drafter_process.h"
#include "kernels/check.h"
#include "launcher/command_line.h"
#include "launcher/inspect.h"
#include "launcher/interrupt.h"
#include "parallel/launch.h"

namespace convoke {
namespace {

int terminal_columns(int fd) {
  winsize size = {};
  return ioctl(fd, TIOCGWINSZ, &size) == 0 ? size.ws_col : 0;
}

/// https://no-color.org: set and not empty means no.
bool wants_color() {
  const char* no_color = std::getenv("NO_COLOR");
  const char* terminal = std::getenv("TERM");
  return (!no_color || *no_color == '\0') && !(terminal && std::string(terminal) == "dumb");
}

/// Standard output belongs to results; everything that is logged goes to standard error.
void set_up_logging() {
  spdlog::set_default_logger(spdlog::stderr_color_mt("convoke"));
  spdlog::set_pattern("%^%l%$ %v");
  spdlog::set_level(spdlog::level::warn);
}

int run(const std::vector<std::string>& arguments) {
  std::ios::sync_with_stdio(false);
  set_up_logging();
  CommandContext context{std::cin, std::cout, std::cerr};
  context.in_is_terminal = isatty(STDIN_FILENO) != 0;
  context.out_is_terminal = isatty(STDOUT_FILENO) != 0;
  context.err_is_terminal = isatty(STDERR_FILENO) != 0;
  context.color = context.out_is_terminal && wants_color();
  context.terminal_columns = terminal_columns(STDERR_FILENO);
  try {
    const auto launch = detect_launch(process_environment());
    context.first_rank = !launch || launch->rank == 0;
  } catch (const Error& error) {
    std::cerr << "convoke: " << error.what() << '\n';
    return kExitUsage;
  }
  context.interrupt = &watch_interrupts();
  context.set_verbose = [](bool verbose) {
    if (verbose) spdlog::set_level(spdlog::level::info);
  };
  context.start_engine = start_engine;
  context.run_as_worker_rank = run_as_worker_rank;
  context.run_inspect = run_inspect;
  context.run_drafter_worker = [](const std::vector<std::string>& worker) {
    return run_drafter_worker(parse_worker_arguments(worker));
  };
  return run_command_line(arguments, context);
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  return convoke::run({argv + 1, argv + argc});
}
