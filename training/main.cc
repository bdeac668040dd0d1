#include <iostream>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "launcher/process_context.h"
#include "training/train_flags.h"
#include "training/train_job.h"

/// jemalloc's settings. Every step allocates and frees the same large tensors; given back to the
/// system in between, touching their pages again would take longer than the arithmetic.
extern "C" const char* malloc_conf;
const char* malloc_conf = "dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always";

namespace convoke::training {
namespace {

int run(const std::vector<std::string>& arguments) {
  const std::atomic<int>* interrupt = nullptr;
  try {
    CommandContext context = process_context();
    interrupt = context.interrupt;
    context.start_engine = start_engine;
    auto parsed = parse_train_flags(arguments);
    if (const auto* show = std::get_if<ShowText>(&parsed)) {
      (show->exit_code == 0 ? context.out : context.err) << show->text << std::flush;
      return show->exit_code;
    }
    auto& options = std::get<TrainOptions>(parsed);
    options.command = command_text("convoke train", arguments);
    context.set_verbose(options.verbose);
    return run_training(std::move(options), context);
  } catch (const Error& error) {
    std::cerr << "convoke train: " << error.what() << '\n';
    if (interrupt && interrupt->load() != 0) return 128 + interrupt->load();
    return error.kind() == ErrorKind::kUsage ? kExitUsage : kExitFailure;
  } catch (const std::exception& error) {
    std::cerr << "convoke train: unexpected: " << error.what() << '\n';
    return kExitFailure;
  }
}

}  // namespace
}  // namespace convoke::training

int main(int argc, char** argv) {
  return convoke::training::run({argv + 1, argv + argc});
}
