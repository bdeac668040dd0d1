#include "launcher/generate.h"

#include <fmt/format.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "kernels/check.h"
#include "launcher/speculation_stats.h"
#include "launcher/table.h"
#include "launcher/text_assembler.h"

namespace convoke {

namespace {

constexpr int kDefaultMaxTokens = 256;
constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr auto kCancelPatience = std::chrono::seconds(5);
constexpr const char* kDraftedColor = "\x1b[32m";
constexpr const char* kPlainColor = "\x1b[0m";

std::string read_all(std::istream& in) {
  return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

std::string read_prompt(const GenerateOptions& options, CommandContext& context) {
  if (options.prompt && options.prompt_file) {
    throw_error(ErrorKind::kUsage, "--prompt-file: a prompt is already given as an argument");
  }
  if (options.prompt && *options.prompt != "-") return *options.prompt;
  if (options.prompt_file && *options.prompt_file != "-") {
    std::ifstream file(*options.prompt_file, std::ios::binary);
    std::error_code ignored;
    if (!file || std::filesystem::is_directory(*options.prompt_file, ignored)) {
      throw_error(ErrorKind::kResource, "--prompt-file: cannot read {}: {}",
                  options.prompt_file->string(), file ? "is a directory" : strerror(errno));
    }
    return read_all(file);
  }
  const bool asked = options.prompt || options.prompt_file;
  if (!asked && context.in_is_terminal) {
    throw_error(ErrorKind::kUsage,
                "no prompt: give one as an argument, with --prompt-file, or on "
                "standard input");
  }
  return read_all(context.in);
}

/// One generation, from prompt to the last line of statistics.
class Generation {
 public:
  Generation(const GenerateOptions& options, CommandContext& context, Engine& engine)
      : options_(options), context_(context), engine_(engine) {}

  int run(const std::string& prompt) {
    prepare(prompt);
    TextAssembler text(engine_.tokenizer(), {stop_, request_.sampling.min_tokens});
    engine_.submit(request_);
    if (options_.echo && !options_.json) show(prompt, false);
    follow(text);
    finish(prompt, text);
    if (text.finish() == FinishReason::kError) {
      throw_error(ErrorKind::kPeer, "the request failed: {}", text.error());
    }
    const int signal = context_.interrupted();
    return signal != 0 ? 128 + signal : int(kExitOk);
  }

 private:
  void prepare(const std::string& prompt) {
    SamplingParams& sampling = request_.sampling;
    sampling = default_sampling(options_.engine.model, options_.use_generation_config);
    sampling.max_tokens = kDefaultMaxTokens;
    overlay(options_.sampling, sampling, stop_);
    sampling.seed = options_.engine.seed;
    validate(sampling, engine_.config().vocabulary);
    request_.request = 1;
    request_.prompt = engine_.tokenizer().encode(prompt);
    if (request_.prompt.empty()) throw_error(ErrorKind::kUsage, "the prompt is empty");
    const int limit = engine_.info().max_model_len;
    if (limit <= 0) return;
    const int room = limit - int(std::min<size_t>(request_.prompt.size(), size_t(limit)));
    if (room == 0) {
      throw_error(ErrorKind::kUsage,
                  "the prompt has {} tokens, which leaves no room in the model's context of {}",
                  request_.prompt.size(), limit);
    }
    sampling.max_tokens = std::min(sampling.max_tokens, room);
    sampling.min_tokens = std::min(sampling.min_tokens, sampling.max_tokens);
  }

  void follow(TextAssembler& text) {
    bool cancelled = false;
    auto deadline = Clock::time_point::max();
    while (!text.closed() && Clock::now() < deadline) {
      if (!cancelled && (text.wants_cancel() || context_.interrupted() != 0)) {
        engine_.cancel(request_.request);
        cancelled = true;
        deadline = Clock::now() + kCancelPatience;
      }
      const auto output = engine_.receive(Clock::now() + kPoll);
      if (!output || output->request != request_.request) continue;
      for (const TextPiece& piece : text.take(*output)) {
        if (!options_.json) show(piece.text, piece.drafted);
      }
    }
  }

  void show(const std::string& text, bool drafted) {
    if (drafted && context_.color) {
      context_.out << kDraftedColor << text << kPlainColor;
    } else {
      context_.out << text;
    }
    flush();
  }

  void flush() {
    context_.out.flush();
    if (!context_.out) throw_error(ErrorKind::kResource, "cannot write to standard output");
  }

  void finish(const std::string& prompt, const TextAssembler& text) {
    if (options_.json) {
      context_.out << json_text(prompt, text) << '\n';
      return flush();
    }
    if (context_.out_is_terminal || !text.text().ends_with('\n')) context_.out << '\n';
    flush();
    if (!options_.stats) return;
    context_.err << fmt::format("\n{} ({}), {:.1f} tokens/s, first token after {:.0f} ms\n",
                                options_.engine.drafter.text(), text.finish_name(),
                                decode_tokens_per_second(text.stats()),
                                1000 * text.stats().first_token_seconds)
                 << stats_table(text.stats()) << std::flush;
  }

  std::string json_text(const std::string& prompt, const TextAssembler& text) const {
    using nlohmann::ordered_json;
    const auto prompt_tokens = int64_t(request_.prompt.size());
    const auto tokens = int64_t(text.tokens().size());
    ordered_json object = {{"prompt", prompt},
                           {"text", (options_.echo ? prompt : "") + text.text()},
                           {"finish_reason", text.finish_name()},
                           {"tokens", text.tokens()},
                           {"seed", request_.sampling.seed},
                           {"usage",
                            {{"prompt_tokens", prompt_tokens},
                             {"completion_tokens", tokens},
                             {"total_tokens", prompt_tokens + tokens}}}};
    if (request_.sampling.logprobs >= 0) {
      ordered_json list = ordered_json::array();
      for (const TokenLogprobs& entry : text.logprobs()) {
        ordered_json top = ordered_json::object();
        for (const auto& [name, logprob] : entry.top) top[name] = logprob;
        list.push_back({{"token", entry.token}, {"logprob", entry.logprob}, {"top", top}});
      }
      object["logprobs"] = std::move(list);
    }
    object["drafter"] = options_.engine.drafter.text();
    object["tokens_per_second"] = decode_tokens_per_second(text.stats());
    object["time_to_first_token_ms"] = 1000 * text.stats().first_token_seconds;
    object["speculation"] = stats_json(text.stats());
    return object.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
  }

  const GenerateOptions& options_;
  CommandContext& context_;
  Engine& engine_;
  SubmitRequest request_;
  std::vector<std::string> stop_;
};

}  // namespace

std::string describe_engine(const Engine& engine, const EngineOptions& options) {
  const EngineInfo& info = engine.info();
  return fmt::format(
      "model    {}: {}, {} parameters, {} read per pass\n"
      "engine   {}; tp {} ({}), {} replica(s){}\n"
      "context  {} tokens, room for {} in the cache\n"
      "drafter  {}\n",
      options.model.string(), engine.config().architecture_name,
      format_count(double(engine.config().parameter_count())),
      format_bytes(double(info.weight_bytes_per_pass)), info.backend, info.tp, info.communicator,
      info.replicas, info.distributed ? " over several processes" : "", info.max_model_len,
      info.kv_cache_tokens, options.drafter.text());
}

int run_generate(const GenerateOptions& options, CommandContext& context) {
  const std::string prompt = read_prompt(options, context);
  if (prompt.empty()) throw_error(ErrorKind::kUsage, "the prompt is empty");
  const auto engine = context.start_engine(options.engine);
  if (options.verbose) context.err << describe_engine(*engine, options.engine) << std::flush;
  const int code = Generation(options, context, *engine).run(prompt);
  engine->shutdown();
  return code;
}

}  // namespace convoke
