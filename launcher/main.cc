#include <iostream>
#include <string>
#include <vector>

#include "actors/drafter_process.h"
#include "kernels/check.h"
#include "launcher/command_line.h"
#include "launcher/draft_device.h"
#include "launcher/inspect.h"
#include "launcher/process_context.h"
#include "launcher/trainer_process.h"

namespace convoke {
namespace {

int run(const std::vector<std::string>& arguments) {
  try {
    CommandContext context = process_context();
    context.start_engine = start_engine;
    context.run_as_worker_rank = run_as_worker_rank;
    context.run_inspect = run_inspect;
    context.run_drafter_worker = [](const std::vector<std::string>& worker) {
      DrafterWorkerOptions options = parse_worker_arguments(worker);
      compute_on_gpu(options.context);
      return run_drafter_worker(options);
    };
    context.run_trainer = become_trainer;
    return run_command_line(arguments, context);
  } catch (const Error& error) {
    std::cerr << "convoke: " << error.what() << '\n';
    return kExitUsage;
  }
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  return convoke::run({argv + 1, argv + argc});
}
