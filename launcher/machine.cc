#include "launcher/machine.h"

#include <fmt/chrono.h>
#include <fmt/format.h>
#include <unistd.h>

#include <ctime>
#include <fstream>

#include "launcher/replica.h"
#include "launcher/table.h"

namespace convoke {

namespace {

/// The value of a line "model name : ..." (x86); other processors may have no such line.
std::string processor_name() {
  std::ifstream info("/proc/cpuinfo");
  for (std::string line; std::getline(info, line);) {
    if (!line.starts_with("model name")) continue;
    const size_t colon = line.find(": ");
    if (colon != std::string::npos) return line.substr(colon + 2);
  }
  return "unknown processor";
}

}  // namespace

std::string describe_machine() {
  const double memory = double(sysconf(_SC_PHYS_PAGES)) * double(sysconf(_SC_PAGESIZE));
  const int cores = usable_cpus();
  return fmt::format("{}, {} core{} usable, {} of memory", processor_name(), cores,
                     cores == 1 ? "" : "s", format_bytes(memory));
}

std::string utc_now() {
  return fmt::format("{:%Y-%m-%d %H:%M} UTC", fmt::gmtime(std::time(nullptr)));
}

}  // namespace convoke
