#include "launcher/batch.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>
#include <nlohmann/json.hpp>
#include <utility>

#include "kernels/check.h"
#include "launcher/batch_job.h"
#include "launcher/journal.h"
#include "launcher/line_reader.h"
#include "launcher/progress.h"
#include "launcher/speculation_stats.h"
#include "launcher/table.h"

namespace convoke {

namespace {

using Seconds = std::chrono::duration<double>;

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr auto kCancelPatience = std::chrono::seconds(5);

std::string model_name(const BatchOptions& options) {
  if (!options.served_model_name.empty()) return options.served_model_name;
  auto path = options.engine.model.lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.filename().string();
}

/// A name fits the served name, or when the last part of it ("org/NAME") occurs in the model's
/// path, as in a hub's cache.
bool names_our_model(std::string_view name, const BatchOptions& options) {
  if (name == model_name(options)) return true;
  const std::string_view last = name.substr(name.rfind('/') + 1);
  return !last.empty() && options.engine.model.string().find(last) != std::string::npos;
}

bool same_file(int a, int b) {
  struct stat first, second;
  return fstat(a, &first) == 0 && fstat(b, &second) == 0 && S_ISREG(first.st_mode) &&
         first.st_dev == second.st_dev && first.st_ino == second.st_ino;
}

/// Everything around a BatchJob: files, progress, the end.
class BatchRun {
 public:
  BatchRun(const BatchOptions& options, CommandContext& context)
      : options_(options),
        context_(context),
        reader_(options.input),
        journal_(options.output, options.resume,
                 [this](std::string_view line, int64_t number) { recover(line, number); }),
        started_(Clock::now()),
        progress_(context.err, style(), context.terminal_columns, started_) {
    if (same_file(reader_.fd(), journal_.fd())) {
      throw_error(ErrorKind::kUsage, "--output-file: is the same file as --input-file");
    }
    if (journal_.torn_bytes() > 0) {
      note(fmt::format("{}: cut off a torn line of {} bytes", options.output.string(),
                       journal_.torn_bytes()));
    }
  }

  int run() {
    total_ = options_.input == "-" ? -1 : count_lines(options_.input);
    BatchJob::Config config;
    config.defaults.sampling =
        default_sampling(options_.engine.model, options_.use_generation_config);
    (options_.override_bodies ? config.defaults.overrides : fallback_) = options_.sampling;
    overlay(fallback_, config.defaults.sampling, config.defaults.stop);
    config.defaults.job_seed = options_.engine.seed;
    config.model = model_name(options_);
    config.is_our_model = [this](std::string_view name) { return names_our_model(name, options_); };
    config.write = [this](std::string_view line) { journal_.append(line); };
    config.warn = [this](const std::string& message) { note(message); };

    const auto engine = context_.start_engine(options_.engine);
    started_ = Clock::now();
    BatchJob job(*engine, std::move(config), std::move(answers_));
    try {
      serve(*engine, job);
      journal_.sync(true);
    } catch (const Error& error) {
      progress_.clear();
      throw Error(error.kind(), error.what() + save(job));
    }
    progress_.finish(state(job));
    engine->shutdown();
    return report(job);
  }

 private:
  Progress::Style style() const {
    if (options_.quiet) return Progress::Style::kNone;
    return context_.err_is_terminal ? Progress::Style::kBar : Progress::Style::kLines;
  }

  void recover(std::string_view line, int64_t number) {
    const auto answered = parse_answered_line(line);
    if (!answered) {
      throw_error(ErrorKind::kUsage,
                  "--resume: line {} of {} is not a result of a batch job; name another file",
                  number, options_.output.string());
    }
    answers_.add(*answered);
  }

  void note(const std::string& message) {
    progress_.clear();
    context_.err << "convoke batch: " << message << '\n' << std::flush;
  }

  void serve(Engine& engine, BatchJob& job) {
    // Enough that a finished sequence's place is taken in the next step, and bounded memory.
    const int64_t places =
        int64_t(std::max(1, options_.engine.max_num_seqs)) * std::max(1, engine.info().replicas);
    bool ended = false;
    while (!ended || job.in_flight() > 0) {
      if (context_.interrupted() != 0) return give_up(engine, job);
      while (!ended && job.in_flight() < 4 * places) {
        std::string_view line;
        // A pipe may keep us waiting only while nothing is running.
        const auto status = reader_.next(line, job.in_flight() > 0 ? 0 : int(kPoll.count()));
        if (status == LineReader::Status::kWait) break;
        ended = status == LineReader::Status::kEnd;
        if (!ended && !is_blank(line)) job.take_line(line, reader_.line_number());
        if (context_.interrupted() != 0) break;
      }
      if (job.in_flight() > 0) {
        if (const auto output = engine.receive(Clock::now() + kPoll)) job.take_output(*output);
      }
      journal_.sync();
      progress_.update(state(job), Clock::now());
    }
  }

  void give_up(Engine& engine, BatchJob& job) {
    job.cancel_all();
    const auto deadline = Clock::now() + kCancelPatience;
    while (job.in_flight() > 0 && Clock::now() < deadline) {
      if (const auto output = engine.receive(Clock::now() + kPoll)) job.take_output(*output);
    }
  }

  /// The job ends with an error: makes durable what can be, and says how to go on.
  std::string save(const BatchJob& job) {
    try {
      journal_.sync(true);
    } catch (const Error&) {  // the first error is the one to tell
    }
    return fmt::format(" ({} of {} requests are done and kept; --resume completes the rest)",
                       job.counts().done() - job.counts().failed,
                       total_ < 0 ? "?" : fmt::format("{}", total_));
  }

  ProgressState state(const BatchJob& job) const {
    const BatchCounts& counts = job.counts();
    ProgressState state;
    state.done = counts.done();
    state.before = counts.before;
    state.total = total_;
    state.running = job.in_flight();
    state.tokens = counts.tokens;
    state.errors = counts.refused + counts.failed;
    if (job.stats().drafts > 0) state.acceptance_length = mean_acceptance_length(job.stats());
    state.seconds = Seconds(Clock::now() - started_).count();
    return state;
  }

  int report(const BatchJob& job) {
    const BatchCounts& counts = job.counts();
    const double seconds = Seconds(Clock::now() - started_).count();
    const double rate = seconds > 0 ? double(counts.tokens) / seconds : 0;
    if (options_.json) {
      const nlohmann::ordered_json summary = {
          {"output_file", options_.output.string()},
          {"requests", counts.done()},
          {"answered_before", counts.before},
          {"answered", counts.answered},
          {"error_lines", counts.refused},
          {"failed", counts.failed},
          {"seconds", seconds},
          {"output_throughput", rate},
          {"request_throughput", seconds > 0 ? double(counts.answered) / seconds : 0.0},
          {"speculation", stats_json(job.stats())}};
      context_.out << summary.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
                   << '\n';
    } else if (!options_.quiet) {
      std::string text =
          fmt::format("{}: {} requests answered", options_.output.string(), counts.answered);
      if (counts.before > 0) text += fmt::format(", {} before", counts.before);
      if (counts.refused > 0) text += fmt::format(", {} error lines", counts.refused);
      if (counts.failed > 0) text += fmt::format(", {} failed", counts.failed);
      text += fmt::format(" in {}, {:.1f} tokens/s\n", format_duration(seconds), rate);
      context_.out << text << stats_table(job.stats());
    }
    context_.out << std::flush;
    if (const int signal = context_.interrupted(); signal != 0) {
      note("interrupted; run again with --resume to complete the rest");
      return 128 + signal;
    }
    if (counts.failed > 0) {
      note(fmt::format("{} requests were not answered; run again with --resume to retry them",
                       counts.failed));
      return kExitFailure;
    }
    return kExitOk;
  }

  const BatchOptions& options_;
  CommandContext& context_;
  SamplingFlags fallback_;
  Answers answers_;
  LineReader reader_;
  Journal journal_;
  Clock::time_point started_;
  Progress progress_;
  int64_t total_ = -1;
};

}  // namespace

int run_batch(const BatchOptions& options, CommandContext& context) {
  return BatchRun(options, context).run();
}

}  // namespace convoke
