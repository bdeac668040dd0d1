#include "training/train_job.h"

#include <ATen/Parallel.h>
#include <fmt/format.h>
#include <torch/cuda.h>
#include <torch/types.h>

#include <chrono>
#include <fstream>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "launcher/bench.h"
#include "launcher/replace_file.h"
#include "launcher/replica.h"
#include "launcher/status_line.h"
#include "launcher/table.h"
#include "runtime/chat_template/chat_template.h"
#include "runtime/model_files/json_file.h"
#include "training/data/regenerate.h"
#include "training/make_objective.h"
#include "training/tensor_file.h"
#include "training/train_report.h"

namespace convoke::training {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;
using Clock = std::chrono::steady_clock;

constexpr size_t kMaxRecordBytes = size_t{64} << 20;
constexpr int kHeldOutPrompts = 12, kHeldOutPromptTokens = 64, kMeasuredTokens = 64;

double seconds_since(Clock::time_point start) {
  return std::chrono::duration<double>(Clock::now() - start).count();
}

StatusLine::Style progress_style(const TrainOptions& options, const CommandContext& context) {
  if (options.quiet) return StatusLine::Style::kNone;
  return context.err_is_terminal ? StatusLine::Style::kBar : StatusLine::Style::kLines;
}

/// Empty where the model has no chat template.
RenderChat chat_renderer(const Tokenizer& tokenizer) {
  if (tokenizer.chat_template().empty()) return {};
  const auto text = [&](const std::optional<int32_t>& token) {
    return token ? tokenizer.id_to_token(*token) : std::string();
  };
  ChatInput input;
  input.bos_token = text(tokenizer.bos());
  input.eos_token = text(tokenizer.eos());
  return [chat = ChatTemplate::parse(tokenizer.chat_template(), "chat template"),
          input](const Json& messages) mutable {
    input.messages = messages;
    // As transformers does: a key without a value is no key.
    for (Json& message : input.messages) {
      for (auto entry = message.begin(); entry != message.end();) {
        entry = entry->is_null() ? message.erase(entry) : std::next(entry);
      }
    }
    return chat.render(input);
  };
}

class TrainJob {
 public:
  TrainJob(TrainOptions options, CommandContext& context)
      : options_(std::move(options)),
        context_(context),
        config_(ModelConfig::load(options_.model)) {
    if (options_.sequence_length == 0) {
      options_.sequence_length = std::min(512, config_.max_positions);
    }
    if (options_.sequence_length > config_.max_positions) {
      throw_error(ErrorKind::kUsage, "--sequence-length: is {}, but the model's context is {}",
                  options_.sequence_length, config_.max_positions);
    }
    check_method_flags(options_, config_);
  }

  int run() {
    open_directory();
    load_data();
    const Products products = choose_products();
    const TargetModel target = TargetModel::load(options_.model, products);
    const auto objective = make_objective(options_, target, data_.train);
    if (!options_.init.empty()) begin_with(*objective);
    if (options_.steps == 0) options_.steps = steps_of_epochs();
    describe(products, *objective);
    if (!train(*objective, products)) return 128 + context_.interrupted();
    write_drafter(*objective);
    if (options_.measure && !data_.held_out.empty()) measure();
    finish();
    return kExitOk;
  }

 private:
  // --- the directory ------------------------------------------------------------------------

  fs::path record_file() const { return options_.out / "training.json"; }
  fs::path checkpoint_file() const { return options_.out / "checkpoint" / "state.safetensors"; }

  void open_directory() {
    const bool used = fs::exists(options_.out) && !fs::is_empty(options_.out);
    if (used && !options_.resume) {
      throw_error(ErrorKind::kUsage, "--out: {} is not empty; --resume goes on with a run in it",
                  options_.out.string());
    }
    if (used && fs::exists(record_file())) {
      check_record();
      return;
    }
    std::error_code error;
    fs::create_directories(checkpoint_file().parent_path(), error);
    if (error) {
      throw_error(ErrorKind::kResource, "--out: {}: {}", options_.out.string(), error.message());
    }
    record_ = {{"command", options_.command},
               {"model", options_.model.string()},
               {"data", Json::array()},
               {"recipe", recipe_json(options_)},
               {"finished", false}};
    for (const fs::path& file : options_.data) record_["data"].push_back(file.string());
    write_record();
  }

  void check_record() {
    const std::string name = record_file().string();
    record_ = parse_json(read_text_file(record_file(), kMaxRecordBytes), name);
    if (!record_.is_object() || !record_.contains("recipe")) {
      throw_error(ErrorKind::kUsage, "{}: is not the record of a training run", name);
    }
    if (record_.value("finished", false)) {
      throw_error(ErrorKind::kUsage, "--out: {} holds a drafter whose training has ended",
                  options_.out.string());
    }
    const Json recipe = recipe_json(options_);
    for (const auto& [flag, value] : recipe.items()) {
      const Json before = record_["recipe"].value(flag, Json());
      if (before == value) continue;
      throw_error(ErrorKind::kUsage, "--{}: is {}, but the run in {} began with {}", flag,
                  value.dump(), options_.out.string(), before.dump());
    }
  }

  void write_record() { replace_file(record_file(), record_.dump(2) + "\n"); }

  // --- data -----------------------------------------------------------------------------------

  void load_data() {
    const auto tokenizer = Tokenizer::load(options_.model);
    const Clock::time_point start = Clock::now();
    data_ = load_corpus({.files = options_.data,
                         .sequence_length = options_.sequence_length,
                         .held_out_share = options_.held_out_share,
                         .max_tokens = options_.max_data_tokens,
                         .seed = options_.seed,
                         .threads = options_.threads},
                        *tokenizer, config_.vocabulary, chat_renderer(*tokenizer));
    say("data: {} documents, {} tokens in {} sequences to learn from, {} sequences held out ({})",
        data_.documents, format_count(double(data_.train.tokens.size())), data_.train.size(),
        data_.held_out.size(), format_duration(seconds_since(start)));
    if (data_.train.empty()) {
      throw_error(ErrorKind::kUsage, "--data: there is nothing to learn from");
    }
    write_held_out_prompts();
    if (options_.regenerate) regenerate_data();
    const std::string digest = fmt::format("{:016x}", data_.digest());
    const std::string before = record_.value("data_digest", digest);
    if (before != digest) {
      throw_error(ErrorKind::kUsage,
                  "--data: the texts are not those that the run in {} began with",
                  options_.out.string());
    }
    record_["data_digest"] = digest;
    record_["train_tokens"] = data_.train.tokens.size();
    write_record();
  }

  /// Beginnings of held-out texts, in the form of `convoke bench --prompts`.
  void write_held_out_prompts() {
    std::string lines;
    const int64_t count = std::min<int64_t>(kHeldOutPrompts, data_.held_out.size());
    for (int64_t i = 0; i < count; ++i) {
      const auto sequence = data_.held_out.sequence(i * data_.held_out.size() / count);
      const size_t length = std::min(sequence.size() / 2, size_t(kHeldOutPromptTokens));
      const Json body = {
          {"prompt", std::vector<int32_t>(sequence.begin(), sequence.begin() + int64_t(length))},
          {"max_tokens", kMeasuredTokens}};
      lines += Json{{"custom_id", fmt::format("held-out-{}", i)},
                    {"method", "POST"},
                    {"url", "/v1/completions"},
                    {"body", body}}
                   .dump() +
               "\n";
    }
    replace_file(options_.out / "held-out.jsonl", lines);
  }

  void regenerate_data() {
    EngineOptions engine_options = this->engine_options();
    engine_options.max_num_seqs = 32;
    engine_options.max_model_len = options_.sequence_length;
    const auto engine = context_.start_engine(engine_options);
    const auto run = [&](const TokenCorpus& prompts, const char* name, uint64_t seed) {
      StatusLine status(context_.err, progress_style(options_, context_), context_.terminal_columns,
                        Clock::now());
      const auto render = [&](int64_t done, int64_t total, int64_t tokens, double seconds) {
        return [=](bool bar, int columns) {
          const std::string head = fmt::format("{}/{}", done, total);
          const std::string tail =
              fmt::format("  {:.0f} tok/s  {}", seconds > 0 ? double(tokens) / seconds : 0.0,
                          format_duration(seconds));
          const double share = total > 0 ? double(done) / double(total) : 0.0;
          return bar ? bar_line(share, "regenerate " + head, tail, columns)
                     : "train: regenerated " + head + tail;
        };
      };
      TokenCorpus made =
          regenerate(*engine, prompts,
                     {.prompt_tokens = options_.regenerate_prompt_tokens,
                      .sequence_length = options_.sequence_length,
                      .temperatures = options_.regenerate_temperatures,
                      .seed = seed,
                      .journal = options_.out / name,
                      .max_num_seqs = engine_options.max_num_seqs,
                      .interrupted = [this] { return context_.interrupted() != 0; },
                      .progress =
                          [&](int64_t done, int64_t total, int64_t tokens, double seconds) {
                            status.update(render(done, total, tokens, seconds), Clock::now());
                          }});
      status.clear();
      return made;
    };
    data_.train =
        run(spread(data_.train, options_.regenerate_sequences), "regenerated.jsonl", options_.seed);
    if (!data_.held_out.empty()) {
      data_.held_out = run(spread(data_.held_out, options_.eval_sequences),
                           "regenerated-held-out.jsonl", options_.seed + 1);
    }
    engine->shutdown();
    say("regenerated: {} tokens in {} sequences", format_count(double(data_.train.tokens.size())),
        data_.train.size());
  }

  /// `count` sequences from all over the corpus; 0 or more than there are: all.
  static TokenCorpus spread(const TokenCorpus& corpus, int64_t count) {
    if (count == 0 || count >= corpus.size()) return corpus;
    TokenCorpus chosen;
    for (int64_t i = 0; i < count; ++i) chosen.add(corpus.sequence(i * corpus.size() / count));
    return chosen;
  }

  // --- training -------------------------------------------------------------------------------

  Products choose_products() const {
    Products products;
    const bool cuda = options_.device.starts_with("cuda") ||
                      (options_.device == "auto" && torch::cuda::is_available());
    if (cuda && !torch::cuda::is_available()) {
      throw_error(ErrorKind::kUsage, "--device: {} is not to be had: this LibTorch sees no GPU",
                  options_.device);
    }
    products.device = cuda ? torch::Device(options_.device == "auto" ? "cuda" : options_.device)
                           : torch::Device(torch::kCPU);
    const bool fast = cuda || cpu::best_isa() >= cpu::Isa::kAvx512Bf16;
    const bool narrow = options_.precision == "bfloat16" || (options_.precision == "auto" && fast);
    products.dtype = narrow ? torch::kBFloat16 : torch::kFloat32;
    return products;
  }

  /// Takes over the weights of --init, which has to be a drafter of the same shape and vocabulary.
  void begin_with(Objective& objective) const {
    const fs::path file = options_.init / "model.safetensors";
    const std::vector<Parameter> tensors = read_tensors(file);
    restore(objective.parameters(), tensors, "", file);
    for (const Parameter& own : objective.exported()) {
      if (own.value.is_floating_point()) continue;
      const auto found = std::ranges::find(tensors, own.name, &Parameter::name);
      if (found == tensors.end() || !torch::equal(found->value, own.value.cpu())) {
        throw_error(ErrorKind::kUsage,
                    "--init: {} has another draft vocabulary ('{}') than the data", file.string(),
                    own.name);
      }
    }
  }

  int64_t steps_of_epochs() const {
    const double batches = double(data_.train.size()) / double(options_.batch_size);
    return std::max<int64_t>(1, int64_t(std::ceil(options_.epochs * batches)));
  }

  void describe(const Products& products, Objective& objective) {
    int64_t numbers = 0;
    for (const Parameter& parameter : objective.parameters()) numbers += parameter.value.numel();
    say("train: {} for {}: {} parameters, {} steps of {} sequences, {} in {}",
        method_name(options_.method), options_.model.string(), format_count(double(numbers)),
        options_.steps, options_.batch_size, products.device.str(),
        products.dtype == torch::kBFloat16 ? "bfloat16" : "float32");
  }

  /// False if it was interrupted.
  bool train(Objective& objective, const Products& products) {
    Trainer trainer(objective, options_, data_.train, data_.held_out, products, checkpoint_file());
    StatusLine status(context_.err, progress_style(options_, context_), context_.terminal_columns,
                      Clock::now());
    const Clock::time_point start = Clock::now();
    TrainProgress progress{.before = -1};
    Json looks = Json::array();
    const auto render = [&](bool bar, int columns) {
      return render_train_progress(progress, bar, columns);
    };
    const auto end = trainer.run({.stepped =
                                      [&](const StepReport& report) {
                                        if (progress.before < 0) progress.before = report.step - 1;
                                        progress.last = report;
                                        progress.tokens += report.tokens;
                                        progress.seconds = seconds_since(start);
                                        status.update(render, Clock::now());
                                      },
                                  .evaluated =
                                      [&](const Evaluation& evaluation, bool best) {
                                        status.clear();
                                        say("{}", evaluation_text(evaluation, best));
                                        looks.push_back(evaluation_json(evaluation));
                                      },
                                  .interrupted = [&] { return context_.interrupted() != 0; }});
    status.clear();
    if (end == Trainer::End::kInterrupted) {
      context_.err << fmt::format(
          "convoke train: interrupted after step {}; the same command with --resume goes on\n",
          trainer.state().step);
      return false;
    }
    if (end == Trainer::End::kPatience) {
      say("train: {} looks without gain; step {} was the best", options_.patience,
          trainer.state().best_step);
    }
    record_["evaluations"] = looks;
    record_["steps"] = trainer.state().step;
    record_["best_step"] = trainer.state().best_step;
    record_["seconds"] = seconds_since(start);
    return true;
  }

  void write_drafter(Objective& objective) {
    const torch::Dtype dtype =
        options_.head_dtype == "bfloat16" ? torch::kBFloat16 : torch::kFloat32;
    std::vector<Parameter> tensors = objective.exported();
    for (Parameter& tensor : tensors) {
      if (tensor.value.is_floating_point()) tensor.value = tensor.value.detach().to(dtype);
    }
    write_tensors(options_.out / "model.safetensors", tensors);
    Json config = objective.config();
    config["torch_dtype"] = options_.head_dtype;
    replace_file(options_.out / "config.json", config.dump(2) + "\n");
  }

  // --- afterwards -----------------------------------------------------------------------------

  EngineOptions engine_options() const {
    EngineOptions engine;
    engine.model = options_.model;
    engine.threads = options_.threads;
    engine.seed = options_.seed;
    engine.chatter = options_.verbose;
    return engine;
  }

  /// Decodes held-out prompts with and without the drafter, in this process.
  void measure() {
    say("measure: held-out prompts with and without the drafter");
    Json measured = Json::array();
    std::string line;
    for (const float temperature : {0.0f, 1.0f}) {
      BenchOptions bench;
      bench.engine = engine_options();
      bench.prompts = options_.out / "held-out.jsonl";
      bench.drafters = {DrafterSpec::parse("none"),
                        DrafterSpec::parse(fmt::format("{}:{}", method_name(options_.method),
                                                       options_.out.string()))};
      bench.sampling.temperature = temperature;
      bench.sampling.max_tokens = std::min(kMeasuredTokens, config_.max_positions / 4);
      bench.floor = false;
      bench.quiet = true;
      const BenchReport report = measure_drafters(bench, context_);
      const BenchRow& row = report.points.front().rows.back();
      const double length =
          double(row.stats.output_tokens) / double(std::max<int64_t>(1, row.stats.decode_steps));
      measured.push_back({{"temperature", temperature},
                          {"speedup", row.speedup},
                          {"tokens_per_pass", length},
                          {"identical", report.differing() == 0}});
      line += fmt::format("{}{:.2f}x at T={:.0f} ({:.2f} tokens per pass{})",
                          line.empty() ? "" : ", ", row.speedup, temperature, length,
                          report.differing() == 0 ? "" : ", OUTPUTS DIFFER");
    }
    record_["measured"] = measured;
    expectation_ = "expect " + line + ", as on held-out prompts on this machine";
  }

  void finish() {
    record_["finished"] = true;
    write_record();
    std::error_code ignored;
    fs::remove_all(checkpoint_file().parent_path(), ignored);
    say("{}: {} is ready: --drafter {}:{}", "train", options_.out.string(),
        method_name(options_.method), options_.out.string());
    if (!expectation_.empty()) say("{}", expectation_);
    if (options_.json) context_.out << record_.dump() << '\n' << std::flush;
  }

  template <typename... Args>
  void say(fmt::format_string<Args...> format, Args&&... args) {
    if (options_.quiet) return;
    context_.err << fmt::format(format, std::forward<Args>(args)...) << '\n' << std::flush;
  }

  TrainOptions options_;
  CommandContext& context_;
  const ModelConfig config_;
  CorpusSplit data_;
  Json record_;
  std::string expectation_;
};

}  // namespace

int run_training(TrainOptions options, CommandContext& context) {
  // Said in any case: some builds of LibTorch would take a single one.
  at::set_num_threads(options.threads > 0 ? options.threads : usable_cpus());
  return TrainJob(std::move(options), context).run();
}

}  // namespace convoke::training
