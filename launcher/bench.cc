#include "launcher/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/check.h"
#include "launcher/batch_lines.h"
#include "launcher/bench_report.h"
#include "launcher/generate.h"
#include "launcher/line_reader.h"

namespace convoke {

namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr int kWarmUpTokens = 16;

/// The prompts of a batch file; here a bad line is an error, not a line of output.
std::vector<BatchRequest> read_prompts(const BenchOptions& options) {
  BatchDefaults defaults;
  defaults.sampling = default_sampling(options.engine.model, options.use_generation_config);
  defaults.overrides = options.sampling;
  defaults.job_seed = options.engine.seed;
  std::vector<BatchRequest> requests;
  LineReader reader(options.prompts);
  std::string_view line;
  while (reader.next(line) == LineReader::Status::kLine) {
    if (options.limit > 0 && int(requests.size()) == options.limit) break;
    if (is_blank(line)) continue;
    auto parsed = parse_batch_line(line, defaults);
    if (const auto* error = std::get_if<LineError>(&parsed)) {
      throw_error(ErrorKind::kUsage, "--prompts: {} line {}: {}", reader.name(),
                  reader.line_number(), error->message);
    }
    requests.push_back(std::get<BatchRequest>(std::move(parsed)));
  }
  if (requests.empty()) {
    throw_error(ErrorKind::kUsage, "--prompts: {} has no requests", reader.name());
  }
  return requests;
}

class Bench {
 public:
  Bench(const BenchOptions& options, CommandContext& context, Engine& engine,
        std::vector<DrafterSpec> drafters)
      : options_(options), context_(context), engine_(engine), drafters_(std::move(drafters)) {}

  BenchSamples run(const std::vector<BatchRequest>& requests) {
    std::vector<SubmitRequest> prompts;
    for (const BatchRequest& request : requests) prepare(request, prompts);
    warm_up(prompts.front());
    BenchSamples samples(drafters_.size(), std::vector<std::vector<BenchSample>>(prompts.size()));
    const size_t runs = size_t(options_.repeat) * prompts.size();
    for (size_t run = 0; run < runs; ++run) {
      const size_t prompt = run % prompts.size();
      // The order rotates, so that a machine that slows down favours no drafter.
      for (size_t i = 0; i < drafters_.size(); ++i) {
        const size_t drafter = (run + i) % drafters_.size();
        show_progress(run, runs, drafter);
        samples[drafter][prompt].push_back(measure(drafter, prompts[prompt]));
      }
    }
    clear_progress();
    return samples;
  }

 private:
  void prepare(const BatchRequest& request, std::vector<SubmitRequest>& prompts) const {
    validate(request.sampling, engine_.config().vocabulary);
    const int limit = engine_.info().max_model_len;
    for (size_t p = 0; p < request.prompts.size(); ++p) {
      SubmitRequest submitted{0, {}, request.sampling};
      const auto* text = std::get_if<std::string>(&request.prompts[p]);
      submitted.prompt = text ? engine_.tokenizer().encode(
                                    *text, {.add_special_tokens = request.add_special_tokens})
                              : std::get<std::vector<int32_t>>(request.prompts[p]);
      SamplingParams& sampling = submitted.sampling;
      sampling.seed = choice_seed(request.sampling.seed, int(p) * request.n);
      sampling.digests = options_.compare_logits;
      if (limit > 0) {
        const int room = limit - int(submitted.prompt.size());
        if (room <= 0) {
          throw_error(ErrorKind::kUsage,
                      "--prompts: '{}' has {} tokens, which leaves no room in the context of {}",
                      request.custom_id, submitted.prompt.size(), limit);
        }
        sampling.max_tokens = std::min(sampling.max_tokens, room);
        sampling.min_tokens = std::min(sampling.min_tokens, sampling.max_tokens);
      }
      prompts.push_back(std::move(submitted));
    }
  }

  /// Also finds out, before anything is measured, whether every drafter can be used.
  void warm_up(SubmitRequest prompt) {
    prompt.sampling.max_tokens = std::min(prompt.sampling.max_tokens, kWarmUpTokens);
    prompt.sampling.min_tokens = std::min(prompt.sampling.min_tokens, prompt.sampling.max_tokens);
    for (size_t drafter = 0; drafter < drafters_.size(); ++drafter) measure(drafter, prompt);
  }

  BenchSample measure(size_t drafter, SubmitRequest prompt) {
    if (drafter != current_) {
      engine_.use_drafter(drafters_[drafter]);
      current_ = drafter;
    }
    prompt.request = next_request_++;
    engine_.submit(prompt);
    BenchSample sample;
    while (sample.finish == FinishReason::kNone) {
      if (context_.interrupted() != 0) throw_error(ErrorKind::kCancelled, "interrupted");
      const auto output = engine_.receive(Clock::now() + kPoll);
      if (!output || output->request != prompt.request) continue;
      sample.tokens.insert(sample.tokens.end(), output->tokens.begin(), output->tokens.end());
      sample.finish = output->finish;
      sample.stats = output->stats;
      if (sample.finish == FinishReason::kError || sample.finish == FinishReason::kCancelled) {
        throw_error(ErrorKind::kPeer, "a request failed with drafter {}: {}",
                    drafters_[drafter].text(), output->error);
      }
    }
    return sample;
  }

  void show_progress(size_t run, size_t runs, size_t drafter) {
    if (options_.quiet || !context_.err_is_terminal) return;
    context_.err << fmt::format("\rrun {}/{}: {}\x1b[K", run + 1, runs, drafters_[drafter].text())
                 << std::flush;
  }

  void clear_progress() {
    if (!options_.quiet && context_.err_is_terminal) context_.err << "\r\x1b[K" << std::flush;
  }

  const BenchOptions& options_;
  CommandContext& context_;
  Engine& engine_;
  std::vector<DrafterSpec> drafters_;
  size_t current_ = 0;  ///< the engine starts with the first
  uint64_t next_request_ = 1;
};

size_t find_plain(const std::vector<DrafterSpec>& drafters) {
  const auto plain = std::ranges::find(drafters, "none", &DrafterSpec::method);
  return size_t(plain - drafters.begin());
}

}  // namespace

int run_bench(const BenchOptions& options, CommandContext& context) {
  std::vector<DrafterSpec> drafters = options.drafters;
  if (find_plain(drafters) == drafters.size()) drafters.insert(drafters.begin(), DrafterSpec{});
  const std::vector<BatchRequest> requests = read_prompts(options);

  EngineOptions engine_options = options.engine;
  engine_options.drafter = drafters.front();
  const auto engine = context.start_engine(engine_options);
  if (options.verbose) context.err << describe_engine(*engine, engine_options) << std::flush;

  Bench bench(options, context, *engine, drafters);
  const BenchSamples samples = bench.run(requests);
  std::vector<std::string> names;
  for (const DrafterSpec& drafter : drafters) names.push_back(drafter.text());
  BenchReport report = make_bench_report(names, samples, find_plain(drafters));
  if (options.floor) report.floor = engine->measure_floor(options.floor_rows);
  engine->shutdown();

  if (options.json) {
    context.out << bench_json(report).dump() << '\n';
  } else {
    context.out << bench_text(report);
  }
  context.out.flush();
  int differing = 0;
  for (const BenchRow& row : report.rows) differing += row.differing;
  if (differing == 0) return kExitOk;
  context.err << fmt::format("convoke bench: {} outputs differ from plain decoding's\n", differing);
  return kExitFailure;
}

}  // namespace convoke
