#include "launcher/bench.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <span>
#include <utility>

#include "kernels/check.h"
#include "launcher/batch_lines.h"
#include "launcher/bench_report.h"
#include "launcher/generate.h"
#include "launcher/html_report.h"
#include "launcher/line_reader.h"
#include "launcher/machine.h"
#include "launcher/replace_file.h"
#include "launcher/table.h"
#include "launcher/version.h"

namespace convoke {

namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr int kWarmUpTokens = 32;

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

/// One configuration, measured once for all points that have it.
struct Unit {
  BenchConfiguration configuration;
  BenchMeasurement measured;
};

/// Which configurations there are to measure, and which of them each point compares.
struct BenchPlan {
  std::vector<DrafterSpec> drafters;
  size_t plain = 0;  ///< of `drafters`
  std::vector<SweepPoint> points;
  std::vector<Unit> units;
  std::vector<std::vector<size_t>> unit_of;  ///< [point][drafter]

  BenchPlan(std::vector<DrafterSpec> compared, const std::vector<Sweep>& sweeps)
      : drafters(std::move(compared)), points(sweep_points(sweeps)) {
    const auto none = std::ranges::find(drafters, "none", &DrafterSpec::method);
    if (none == drafters.end()) {
      drafters.insert(drafters.begin(), DrafterSpec{});
    } else {
      plain = size_t(none - drafters.begin());
    }
    for (const SweepPoint& point : points) {
      unit_of.emplace_back();
      for (const DrafterSpec& drafter : drafters) {
        BenchConfiguration configuration = configure(drafter, point);
        auto unit = std::ranges::find(units, configuration, &Unit::configuration);
        if (unit == units.end()) unit = units.insert(unit, {std::move(configuration), {}});
        unit_of.back().push_back(size_t(unit - units.begin()));
      }
    }
  }
};

class Bench {
 public:
  Bench(const BenchOptions& options, CommandContext& context, Engine& engine, BenchPlan& plan)
      : options_(options),
        context_(context),
        engine_(engine),
        units_(plan.units),
        together_(largest_batch(options.sweeps) > 0),
        current_(units_.front().configuration) {}

  /// Fills the plan's measurements.
  void run(const std::vector<BatchRequest>& requests) {
    for (const BatchRequest& request : requests) prepare(request);
    for (Unit& unit : units_) unit.measured.prompts.resize(prompts_.size());
    // Finds out, before anything is measured, whether every drafter can be used.
    for (const Unit& unit : units_) warm_up(unit.configuration, prompts_.size() - 1);
    const size_t turn =
        together_ ? prompts_.size() : std::min(size_t(options_.turn), prompts_.size());
    const size_t turns = (prompts_.size() + turn - 1) / turn;
    for (size_t t = 0; t < size_t(options_.repeat) * turns; ++t) {
      const size_t begin = t % turns * turn, end = std::min(begin + turn, prompts_.size());
      // The order rotates, so that a machine that slows down favours nobody; who was last begins.
      for (size_t i = 0; i < units_.size(); ++i) {
        Unit& unit = units_[((t + 1) * (units_.size() - 1) + i) % units_.size()];
        show_progress(t, size_t(options_.repeat) * turns, unit.configuration);
        switch_to(unit.configuration, end % prompts_.size());
        measure(unit, begin, end);
      }
    }
    clear_progress();
  }

  const std::vector<std::string>& names() const { return names_; }

 private:
  void prepare(const BatchRequest& request) {
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
      prompts_.push_back(std::move(submitted));
      names_.push_back(request.prompts.size() == 1 ? request.custom_id
                                                   : fmt::format("{}[{}]", request.custom_id, p));
    }
  }

  /// A drafter just started knows nothing of what it will be good at: that is not measured. Nor is
  /// the prompt it learns from one of those that follow, where there is another.
  void switch_to(const BenchConfiguration& next, size_t other_prompt) {
    if (!next.same_drafter(current_)) warm_up(next, other_prompt);
  }

  void warm_up(const BenchConfiguration& next, size_t prompt) {
    if (!next.same_drafter(current_)) engine_.use_drafter(next.drafter);
    current_ = next;
    SubmitRequest request = prompts_[prompt];
    SamplingParams& sampling = request.sampling;
    sampling.max_tokens = std::min(sampling.max_tokens, kWarmUpTokens);
    sampling.min_tokens = std::min(sampling.min_tokens, sampling.max_tokens);
    run_together(next, std::span(&request, 1));
  }

  void measure(Unit& unit, size_t begin, size_t end) {
    const std::span<const SubmitRequest> all(prompts_);
    if (!together_) {
      for (size_t p = begin; p < end; ++p) {
        auto samples = run_together(unit.configuration, all.subspan(p, 1));
        unit.measured.prompts[p].push_back(std::move(samples.front()));
      }
      return;
    }
    const Clock::time_point start = Clock::now();
    auto samples = run_together(unit.configuration, all.subspan(begin, end - begin));
    unit.measured.wall_seconds.push_back(
        std::chrono::duration<double>(Clock::now() - start).count());
    for (size_t p = begin; p < end; ++p) {
      unit.measured.prompts[p].push_back(std::move(samples[p - begin]));
    }
  }

  /// Runs requests, as many at once as the configuration says.
  std::vector<BenchSample> run_together(const BenchConfiguration& configuration,
                                        std::span<const SubmitRequest> requests) {
    std::vector<BenchSample> samples(requests.size());
    const uint64_t first = next_request_;
    next_request_ += requests.size();
    const size_t most = size_t(std::max(1, configuration.batch));
    size_t submitted = 0, finished = 0;
    while (finished < requests.size()) {
      for (; submitted < requests.size() && submitted - finished < most; ++submitted) {
        SubmitRequest request = requests[submitted];
        request.request = first + submitted;
        if (configuration.temperature) request.sampling.temperature = *configuration.temperature;
        engine_.submit(request);
      }
      if (context_.interrupted() != 0) throw_error(ErrorKind::kCancelled, "interrupted");
      const auto output = engine_.receive(Clock::now() + kPoll);
      if (!output || output->request < first || output->request >= first + submitted) continue;
      BenchSample& sample = samples[output->request - first];
      sample.tokens.insert(sample.tokens.end(), output->tokens.begin(), output->tokens.end());
      if (output->finish == FinishReason::kNone) continue;
      if (output->finish == FinishReason::kError || output->finish == FinishReason::kCancelled) {
        throw_error(ErrorKind::kPeer, "a request failed with drafter {}: {}",
                    configuration.drafter.text(), output->error);
      }
      sample.finish = output->finish;
      sample.stats = output->stats;
      ++finished;
    }
    return samples;
  }

  void show_progress(size_t turn, size_t turns, const BenchConfiguration& configuration) {
    if (options_.quiet || !context_.err_is_terminal) return;
    context_.err << fmt::format("\rturn {}/{}: {}\x1b[K", turn + 1, turns,
                                configuration.drafter.text())
                 << std::flush;
  }

  void clear_progress() {
    if (!options_.quiet && context_.err_is_terminal) context_.err << "\r\x1b[K" << std::flush;
  }

  const BenchOptions& options_;
  CommandContext& context_;
  Engine& engine_;
  std::vector<Unit>& units_;
  const bool together_;
  BenchConfiguration current_;  ///< the engine starts with the first
  std::vector<SubmitRequest> prompts_;
  std::vector<std::string> names_;
  uint64_t next_request_ = 1;
};

BenchSubject describe_subject(const BenchOptions& options, const Engine& engine) {
  const EngineInfo& info = engine.info();
  return {.version = fmt::format("convoke {}", version()),
          .date = utc_now(),
          .model = fmt::format("{} ({}, {} parameters, {} read per pass{})",
                               options.engine.model.string(), engine.config().architecture_name,
                               format_count(double(engine.config().parameter_count())),
                               format_bytes(double(info.weight_bytes_per_pass)),
                               options.engine.load_format == "dummy" ? ", random weights" : ""),
          .machine = describe_machine(),
          .engine = fmt::format("{}; tp {} ({}), {} replica(s), drafter placement {}", info.backend,
                                info.tp, info.communicator, info.replicas,
                                options.engine.drafter_placement),
          .command = options.command};
}

BenchReport make_report(const BenchOptions& options, const BenchPlan& plan, const Bench& bench) {
  BenchReport report;
  report.sweeps = options.sweeps;
  report.prompts = int(bench.names().size());
  report.repeats = options.repeat;
  report.together = largest_batch(options.sweeps) > 0;
  report.may_differ = options.engine.gpu_matmul == "fast";
  for (size_t p = 0; p < plan.points.size(); ++p) {
    std::vector<const BenchMeasurement*> measured;
    for (const size_t unit : plan.unit_of[p]) measured.push_back(&plan.units[unit].measured);
    BenchPoint point = make_bench_point(plan.drafters, measured, plan.plain, bench.names());
    point.settings = plan.points[p];
    report.points.push_back(std::move(point));
  }
  return report;
}

}  // namespace

BenchReport measure_drafters(const BenchOptions& options, CommandContext& context) {
  BenchPlan plan(options.drafters, options.sweeps);
  const std::vector<BatchRequest> requests = read_prompts(options);
  EngineOptions engine_options = options.engine;
  engine_options.drafter = plan.units.front().configuration.drafter;
  const auto engine = context.start_engine(engine_options);
  if (options.verbose) context.err << describe_engine(*engine, engine_options) << std::flush;

  Bench bench(options, context, *engine, plan);
  bench.run(requests);
  BenchReport report = make_report(options, plan, bench);
  report.subject = describe_subject(options, *engine);
  if (options.floor) report.floor = engine->measure_floor(options.floor_rows);
  engine->shutdown();
  return report;
}

int run_bench(const BenchOptions& options, CommandContext& context) {
  // An hour of measuring is not to end with a page that cannot be written.
  if (!options.report.empty()) check_replaceable(options.report);
  const BenchReport report = measure_drafters(options, context);
  if (options.json) {
    // Paths need not be UTF-8.
    context.out << bench_json(report).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                << '\n';
  } else {
    context.out << bench_text(report);
  }
  context.out.flush();
  if (!options.report.empty()) {
    replace_file(options.report, html_report(report));
    if (!options.quiet) context.err << fmt::format("report: {}\n", options.report.string());
  }
  const int differing = report.differing();
  if (differing == 0) return kExitOk;
  context.err << fmt::format("convoke bench: {} outputs differ from plain decoding's{}\n",
                             differing,
                             report.may_differ ? ", as they may with --gpu-matmul fast" : "");
  return report.may_differ ? kExitOk : kExitFailure;
}

}  // namespace convoke
