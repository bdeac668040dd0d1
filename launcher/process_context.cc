#include "launcher/process_context.h"

#include <spdlog/sinks/stdout_color_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include <cstdlib>
#include <iostream>

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

}  // namespace

CommandContext process_context() {
  std::ios::sync_with_stdio(false);
  set_up_logging();
  CommandContext context{std::cin, std::cout, std::cerr};
  context.in_is_terminal = isatty(STDIN_FILENO) != 0;
  context.out_is_terminal = isatty(STDOUT_FILENO) != 0;
  context.err_is_terminal = isatty(STDERR_FILENO) != 0;
  context.color = context.out_is_terminal && wants_color();
  context.terminal_columns = terminal_columns(STDERR_FILENO);
  const auto launch = detect_launch(process_environment());
  context.first_rank = !launch || launch->rank == 0;
  context.interrupt = &watch_interrupts();
  context.set_verbose = [](bool verbose) {
    if (verbose) spdlog::set_level(spdlog::level::info);
  };
  return context;
}

}  // namespace convoke
