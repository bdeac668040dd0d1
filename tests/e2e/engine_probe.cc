// Runs the demo prompts (or others) through an engine and prints, a line a request, every output
// token with the fingerprint of the logits that picked it. Two runs agree to the bit exactly when
// they print the same. Used by exactness_test.cc alone, under mpirun, and with other drafters.
//
//   engine_probe --model DIR --prompts FILE [--limit N] [engine and sampling flags below]
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <map>
#include <nlohmann/json.hpp>

#include "actors/drafter_process.h"
#include "kernels/check.h"
#include "launcher/engine.h"

namespace {

using namespace convoke;

struct ProbeOptions {
  EngineOptions engine;
  std::string prompts, drafter = "none";
  int limit = 1000, max_tokens = 32;
  float temperature = 0, top_p = 1;
  bool mixed_sampling = false;
  int expect_accepted = 0;
  int draft_tokens = 16;  // fixed: what is drafted must not depend on the clock
  bool unshared_noise = false, draft_ahead = false;
};

ProbeOptions parse(int argc, char** argv) {
  ProbeOptions o;
  CLI::App app;
  app.add_option("--model", o.engine.model)->required();
  app.add_option("--prompts", o.prompts)->required();
  app.add_option("--limit", o.limit);
  app.add_option("--max-tokens", o.max_tokens);
  app.add_option("--temperature", o.temperature);
  app.add_option("--top-p", o.top_p);
  app.add_flag("--mixed-sampling", o.mixed_sampling,
               "requests take turns: greedy, nucleus (0.8, 0.95), plain (1)");
  app.add_option("--drafter", o.drafter);
  app.add_option("--draft-tokens", o.draft_tokens, "of every tree; -1: as many as pay");
  app.add_flag("--unshared-noise", o.unshared_noise);
  app.add_flag("--draft-ahead", o.draft_ahead);
  app.add_option("--drafter-placement", o.engine.drafter_placement);
  app.add_option("--tp", o.engine.tp);
  app.add_option("--replicas", o.engine.replicas);
  app.add_option("--threads", o.engine.threads);
  app.add_option("--cpu-isa", o.engine.cpu_isa);
  app.add_option("--dtype", o.engine.dtype);
  app.add_option("--max-num-seqs", o.engine.max_num_seqs);
  app.add_option("--prompt-chunk", o.engine.prompt_chunk);
  app.add_option("--kv-cache-tokens", o.engine.kv_cache_tokens);
  app.add_option("--draft-deadline-ms", o.engine.draft_deadline_ms);
  app.add_option("--expect-accepted", o.expect_accepted,
                 "fail unless at least this many draft tokens were accepted");
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& e) {
    std::exit(app.exit(e));
  }
  DrafterSpec& spec = o.engine.drafter = DrafterSpec::parse(o.drafter);
  spec.auto_size = o.draft_tokens < 0;
  if (!spec.auto_size) spec.limits.max_nodes = o.draft_tokens;
  spec.shared_noise = !o.unshared_noise;
  if (o.draft_ahead) spec.ahead = true;
  o.engine.chatter = false;
  return o;
}

struct Answer {
  std::string line;
  RequestStats stats;
};

void set_temperature(const ProbeOptions& options, uint64_t request, SamplingParams& sampling) {
  sampling.temperature = options.temperature;
  sampling.top_p = options.top_p;
  if (!options.mixed_sampling) return;
  constexpr std::array<float, 3> kTemperatures{0.0f, 0.8f, 1.0f}, kTopP{1.0f, 0.95f, 1.0f};
  sampling.temperature = kTemperatures[request % 3];
  sampling.top_p = kTopP[request % 3];
}

void print_token(std::string& line, const OutputToken& token) {
  line += fmt::format(" {}:{:016x}", token.token, token.digest);
  for (const TokenLogprob& l : token.logprobs) line += fmt::format(",{}", l.token);
}

int run(const ProbeOptions& options) {
  const auto engine = start_engine(options.engine);
  std::map<uint64_t, Answer> answers;
  std::ifstream file(options.prompts);
  std::string text;
  uint64_t next = 0;
  while (int(next) < options.limit && std::getline(file, text)) {
    const auto json = nlohmann::json::parse(text);
    const std::string id = json.at("custom_id");
    SubmitRequest request;
    request.request = next++;
    request.prompt = engine->tokenizer().encode(json.at("body").at("prompt").get<std::string>());
    set_temperature(options, request.request, request.sampling);
    request.sampling.max_tokens = options.max_tokens;
    request.sampling.seed = derive_seed(17, id);
    request.sampling.digests = true;
    request.sampling.ignore_eos = true;
    answers[request.request].line = id;
    engine->submit(request);
  }
  size_t open = answers.size();
  while (open > 0) {
    const auto output = engine->receive(Clock::now() + std::chrono::seconds(60));
    if (!output) throw_error(ErrorKind::kTimeout, "no token for 60 s");
    Answer& answer = answers.at(output->request);
    for (const OutputToken& token : output->tokens) print_token(answer.line, token);
    if (output->finish == FinishReason::kNone) continue;
    if (!output->error.empty()) throw_error(ErrorKind::kPeer, "{}", output->error);
    answer.stats = output->stats;
    --open;
  }
  int64_t accepted = 0, steps = 0, tokens = 0, preemptions = 0;
  for (const auto& [request, answer] : answers) {
    std::printf("%s\n", answer.line.c_str());
    accepted += answer.stats.accepted_tokens;
    steps += answer.stats.decode_steps;
    tokens += answer.stats.output_tokens;
    preemptions += answer.stats.preemptions;
  }
  std::fflush(stdout);
  std::fprintf(stderr,
               "%s | %s | %ld tokens, %ld decode steps, %ld drafts accepted, %ld preempted\n",
               engine->info().backend.c_str(), engine->info().communicator.c_str(), long(tokens),
               long(steps), long(accepted), long(preemptions));
  engine->shutdown();
  if (accepted < options.expect_accepted) {
    std::fprintf(stderr, "only %ld draft tokens were accepted\n", long(accepted));
    return 3;
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("probe"));  // output is for comparing
  try {
    // A drafter in a process of its own is this program again, as it is `convoke` again there.
    if (argc > 1 && std::string(argv[1]) == "drafter-worker") {
      const std::vector<std::string> arguments(argv + 2, argv + argc);
      return convoke::run_drafter_worker(convoke::parse_worker_arguments(arguments));
    }
    const ProbeOptions options = parse(argc, argv);
    if (const auto code = convoke::run_as_worker_rank(options.engine)) return *code;
    return run(options);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "engine_probe: %s\n", error.what());
    return 1;
  }
}
