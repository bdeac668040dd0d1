#include "parallel/launch.h"

#include <unistd.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <string_view>

#include "kernels/check.h"

namespace convoke {
namespace {

const std::string* find(const Environment& environment, const std::string& name) {
  const auto found = environment.find(name);
  return found == environment.end() || found->second.empty() ? nullptr : &found->second;
}

std::optional<int> parse(const std::string& text) {
  int value = 0;
  const char* end = text.data() + text.size();
  const auto [rest, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || rest != end) return std::nullopt;
  return value;
}

int number(const Environment& environment, const std::string& name, int least) {
  const std::string& text = environment.at(name);
  const std::optional<int> value = parse(text);
  if (!value || *value < least) {
    throw_error(ErrorKind::kUsage,
                "environment variable {}='{}' should be a number of at least {}; it is set by the "
                "launcher (mpirun, srun): unset it to start alone",
                name, text, least);
  }
  return *value;
}

// The first of `names` that is set, or 0.
int size_from(const Environment& environment, std::initializer_list<const char*> names) {
  for (const char* name : names) {
    if (find(environment, name) != nullptr) return number(environment, name, 1);
  }
  return 0;
}

Launch checked(Launch launch) {
  if (launch.size > 0 && launch.rank >= launch.size) {
    throw_error(ErrorKind::kUsage,
                "the environment says rank {} of {} (launcher {}): a rank must be below the size",
                launch.rank, launch.size, launch.launcher);
  }
  return launch;
}

}  // namespace

std::optional<Launch> detect_launch(const Environment& e) {
  if (find(e, "OMPI_COMM_WORLD_RANK") != nullptr && find(e, "OMPI_COMM_WORLD_SIZE") != nullptr) {
    return checked(
        {"mpirun", number(e, "OMPI_COMM_WORLD_RANK", 0), number(e, "OMPI_COMM_WORLD_SIZE", 1)});
  }
  if (find(e, "PMIX_RANK") != nullptr && find(e, "PMIX_NAMESPACE") != nullptr) {
    return checked({"pmix", number(e, "PMIX_RANK", 0), size_from(e, {"SLURM_STEP_NUM_TASKS"})});
  }
  if (find(e, "PMI_RANK") != nullptr || find(e, "PMI_FD") != nullptr) {
    const char* const rank = find(e, "PMI_RANK") != nullptr       ? "PMI_RANK"
                             : find(e, "SLURM_PROCID") != nullptr ? "SLURM_PROCID"
                                                                  : nullptr;
    // Hydra's PMI_FD alone says that there is a job, not who we are: MPI finds out.
    return checked({"pmi", rank == nullptr ? 0 : number(e, rank, 0),
                    rank == nullptr ? 0 : size_from(e, {"PMI_SIZE", "SLURM_STEP_NUM_TASKS"})});
  }
  const std::string* step = find(e, "SLURM_STEP_ID");
  if (step != nullptr && parse(*step) && find(e, "SLURM_PROCID") != nullptr) {
    return checked({"srun", number(e, "SLURM_PROCID", 0), size_from(e, {"SLURM_STEP_NUM_TASKS"})});
  }
  return std::nullopt;
}

std::vector<std::string> environment_without_launcher(const Environment& environment) {
  static constexpr std::array<std::string_view, 10> kPrefixes = {
      "OMPI_", "PMIX_", "PMI_",   "SLURM_",   "ORTE_",
      "OPAL_", "PRTE_", "HYDRA_", "MPIEXEC_", "MPI_LOCAL"};
  std::vector<std::string> kept;
  for (const auto& [name, value] : environment) {
    const bool launchers = std::any_of(kPrefixes.begin(), kPrefixes.end(),
                                       [&](std::string_view p) { return name.starts_with(p); });
    if (!launchers) kept.push_back(name + "=" + value);
  }
  return kept;
}

Environment process_environment() {
  Environment environment;
  for (char** entry = environ; entry != nullptr && *entry != nullptr; ++entry) {
    const std::string_view text(*entry);
    const size_t equals = text.find('=');
    if (equals == std::string_view::npos) continue;
    environment.emplace(text.substr(0, equals), text.substr(equals + 1));
  }
  return environment;
}

}  // namespace convoke
