// The drafter's process, seen from inside.
#include <spdlog/spdlog.h>

#include <charconv>
#include <csignal>

#include "actors/drafter_actor.h"
#include "actors/drafter_process.h"
#include "actors/zmq_transport.h"
#include "kernels/check.h"

namespace convoke {
namespace {

std::atomic<bool> stop_requested{false};
static_assert(std::atomic<bool>::is_always_lock_free, "it is set by a signal handler");

void request_stop(int) {
  stop_requested.store(true);
}

template <typename T>
T parse_integer(const std::string& name, const std::string& text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw_error(ErrorKind::kUsage, "drafter-worker: {} is '{}', expected a number", name, text);
  }
  return value;
}

}  // namespace

std::vector<std::string> worker_arguments(const DrafterWorkerOptions& options) {
  return {"--connect",     options.endpoint,
          "--drafter",     options.drafter,
          "--noise",       options.shared_noise ? "shared" : "none",
          "--ahead",       options.ahead ? "on" : "off",
          "--vocabulary",  std::to_string(options.context.vocabulary),
          "--model",       options.context.model.string(),
          "--load-format", options.context.load_format,
          "--dtype",       options.context.dtype,
          "--cpu-isa",     options.context.cpu_isa,
          "--threads",     std::to_string(options.context.threads),
          "--gpu",         std::to_string(options.context.gpu.device),
          "--gpu-graphs",  options.context.gpu.graphs ? "on" : "off",
          "--gpu-matmul",  options.context.gpu.library_products ? "fast" : "exact",
          "--float16",     options.context.float16 ? "on" : "off",
          "--sequences",   std::to_string(options.context.max_sequences),
          "--length",      std::to_string(options.context.max_model_len),
          "--incarnation", std::to_string(options.incarnation),
          "--rank",        std::to_string(options.rank),
          "--host",        options.host,
          "--role",        options.role};
}

DrafterWorkerOptions parse_worker_arguments(std::span<const std::string> arguments) {
  DrafterWorkerOptions options;
  for (size_t i = 0; i < arguments.size(); i += 2) {
    const std::string& name = arguments[i];
    if (i + 1 == arguments.size()) {
      throw_error(ErrorKind::kUsage, "drafter-worker: {} has no value", name);
    }
    const std::string& value = arguments[i + 1];
    if (name == "--connect") {
      options.endpoint = value;
    } else if (name == "--drafter") {
      options.drafter = value;
    } else if (name == "--vocabulary") {
      options.context.vocabulary = parse_integer<int>(name, value);
    } else if (name == "--noise") {
      options.shared_noise = value == "shared";
    } else if (name == "--ahead") {
      options.ahead = value == "on";
    } else if (name == "--model") {
      options.context.model = value;
    } else if (name == "--load-format") {
      options.context.load_format = value;
    } else if (name == "--dtype") {
      options.context.dtype = value;
    } else if (name == "--cpu-isa") {
      options.context.cpu_isa = value;
    } else if (name == "--threads") {
      options.context.threads = parse_integer<int>(name, value);
    } else if (name == "--gpu") {
      options.context.gpu.device = parse_integer<int>(name, value);
    } else if (name == "--gpu-graphs") {
      options.context.gpu.graphs = value == "on";
    } else if (name == "--gpu-matmul") {
      options.context.gpu.library_products = value == "fast";
    } else if (name == "--float16") {
      options.context.float16 = value == "on";
    } else if (name == "--sequences") {
      options.context.max_sequences = parse_integer<int>(name, value);
    } else if (name == "--length") {
      options.context.max_model_len = parse_integer<int>(name, value);
    } else if (name == "--incarnation") {
      options.incarnation = parse_integer<uint32_t>(name, value);
    } else if (name == "--rank") {
      options.rank = parse_integer<int32_t>(name, value);
    } else if (name == "--host") {
      options.host = value;
    } else if (name == "--role") {
      options.role = value;
    } else {
      throw_error(ErrorKind::kUsage, "drafter-worker: unknown option '{}'", name);
    }
  }
  if (options.endpoint.empty() || options.drafter.empty()) {
    throw_error(ErrorKind::kUsage, "drafter-worker: --connect and --drafter are needed");
  }
  return options;
}

int run_drafter_worker(const DrafterWorkerOptions& worker) {
  // Ctrl-C reaches the whole process group; when to leave is the coordinator's to say.
  std::signal(SIGINT, SIG_IGN);
  std::signal(SIGPIPE, SIG_IGN);
  std::signal(SIGTERM, request_stop);
  try {
    DrafterSpec spec = DrafterSpec::parse(worker.drafter);
    spec.shared_noise = worker.shared_noise;
    spec.ahead = worker.ahead;
    const auto drafter = make_drafter(spec, worker.context);
    if (!drafter) throw_error(ErrorKind::kUsage, "drafter-worker: nothing to do for 'none'");
    DrafterActorOptions options;
    options.vocabulary = worker.context.vocabulary;
    if (!worker.context.model.empty()) {
      options.lookahead_count =
          draft_needs(spec, ModelConfig::load(worker.context.model)).lookahead_count;
    }
    options.ahead = worker.ahead;
    options.incarnation = worker.incarnation;
    options.rank = worker.rank;
    options.host = worker.host;
    options.role = worker.role;
    options.faults = DrafterFaults::from_environment();
    const auto link = make_zmq_link(worker.endpoint);
    const DrafterEnd end = run_drafter(*link, *drafter, options, stop_requested);
    if (end == DrafterEnd::kDied) std::raise(SIGKILL);
    return end == DrafterEnd::kShutdown ? 0 : 1;
  } catch (const Error& error) {
    spdlog::error("{}: {}", worker.role, error.what());
    const bool hopeless = error.kind() == ErrorKind::kUsage || error.kind() == ErrorKind::kModel;
    return hopeless ? kWorkerHopeless : 1;
  } catch (const std::exception& error) {
    spdlog::error("{}: {}", worker.role, error.what());
    return 1;
  }
}

}  // namespace convoke
