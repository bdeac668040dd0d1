#include "training/data/regenerate.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <chrono>
#include <map>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "kernels/check.h"
#include "launcher/journal.h"
#include "runtime/sampling_params.h"

namespace convoke {

namespace {

constexpr auto kPoll = std::chrono::milliseconds(50);
constexpr auto kCancelPatience = std::chrono::seconds(5);

/// Id and tokens of a line that may be one of a journal.
std::optional<std::pair<int64_t, std::vector<int32_t>>> parse_line(std::string_view line) {
  const auto parsed = nlohmann::json::parse(line, nullptr, false);
  if (!parsed.is_object()) return std::nullopt;
  const auto id = parsed.find("id");
  const auto tokens = parsed.find("tokens");
  if (id == parsed.end() || !id->is_number_integer()) return std::nullopt;
  if (tokens == parsed.end() || !tokens->is_array()) return std::nullopt;
  std::vector<int32_t> ids;
  for (const auto& token : *tokens) {
    if (!token.is_number_integer()) return std::nullopt;
    ids.push_back(token.get<int32_t>());
  }
  return std::pair(id->get<int64_t>(), std::move(ids));
}

class Regeneration {
 public:
  Regeneration(Engine& engine, const TokenCorpus& prompts, const RegenerateOptions& options)
      : engine_(engine),
        prompts_(prompts),
        options_(options),
        results_(size_t(prompts.size())),
        journal_(checked(options, engine).journal, true,
                 [this](std::string_view line, int64_t number) { recover(line, number); }),
        started_(Clock::now()) {}

  TokenCorpus run() {
    try {
      generate();
      journal_.sync(true);
    } catch (const Error& error) {
      throw Error(error.kind(), error.what() + save());
    }
    TokenCorpus corpus;
    for (auto& tokens : results_) {
      corpus.add(tokens);
      std::vector<int32_t>().swap(tokens);
    }
    return corpus;
  }

 private:
  static const RegenerateOptions& checked(const RegenerateOptions& options, const Engine& engine) {
    if (options.prompt_tokens < 1) {
      throw_error(ErrorKind::kUsage, "--regenerate-prompt-tokens: is {}, should be 1 or more",
                  options.prompt_tokens);
    }
    if (options.sequence_length <= options.prompt_tokens) {
      throw_error(ErrorKind::kUsage,
                  "--sequence-length: {} tokens leave no room behind prompts of {}",
                  options.sequence_length, options.prompt_tokens);
    }
    const int limit = engine.info().max_model_len;
    if (limit > 0 && options.sequence_length > limit) {
      throw_error(ErrorKind::kUsage, "--sequence-length: {} is more than the model's context of {}",
                  options.sequence_length, limit);
    }
    if (options.temperatures.empty()) {
      throw_error(ErrorKind::kUsage, "--regenerate-temperatures: is empty");
    }
    for (const float temperature : options.temperatures) {
      SamplingParams params;
      params.temperature = temperature;
      validate(params, engine.config().vocabulary);
    }
    if (options.journal.empty()) {
      throw_error(ErrorKind::kUsage, "regeneration: no file to keep the results in");
    }
    return options;
  }

  std::span<const int32_t> prompt(int64_t id) const {
    const auto sequence = prompts_.sequence(id);
    return sequence.first(std::min(sequence.size(), size_t(options_.prompt_tokens)));
  }

  float temperature(int64_t id) const {
    return options_.temperatures[size_t(id) % options_.temperatures.size()];
  }

  uint64_t seed(int64_t id) const { return derive_seed(options_.seed, fmt::format("{}", id)); }

  std::string line(int64_t id, std::span<const int32_t> tokens) const {
    return fmt::format(R"({{"id": {}, "temperature": {}, "seed": {}, "tokens": [{}]}})", id,
                       temperature(id), seed(id), fmt::join(tokens, ","));
  }

  /// A line of the journal counts if this very run could have written it.
  void recover(std::string_view text, int64_t number) {
    auto parsed = parse_line(text);
    const bool known = parsed && parsed->first >= 0 && parsed->first < prompts_.size();
    if (!known || !could_be(parsed->first, parsed->second, text)) {
      throw_error(ErrorKind::kUsage,
                  "{}:{}: was not written with these prompts and options; remove the file or name "
                  "another to begin anew",
                  options_.journal.string(), number);
    }
    auto& result = results_[size_t(parsed->first)];
    if (!result.empty()) {
      throw_error(ErrorKind::kUsage, "{}:{}: sequence {} is there twice; remove one of the lines",
                  options_.journal.string(), number, parsed->first);
    }
    result = std::move(parsed->second);
    ++done_;
  }

  bool could_be(int64_t id, const std::vector<int32_t>& tokens, std::string_view text) const {
    const auto given = prompt(id);
    const int vocabulary = engine_.config().vocabulary;
    return tokens.size() > given.size() && tokens.size() <= size_t(options_.sequence_length) &&
           std::equal(given.begin(), given.end(), tokens.begin()) &&
           std::ranges::all_of(tokens, [&](int32_t t) { return t >= 0 && t < vocabulary; }) &&
           (int(tokens.size()) == options_.sequence_length || is_end(tokens.back())) &&
           text == line(id, tokens);
  }

  bool is_end(int32_t token) const {
    return std::ranges::count(engine_.config().eos_tokens, token) > 0;
  }

  void generate() {
    report();
    while (true) {
      if (options_.interrupted && options_.interrupted()) {
        give_up();
        throw_error(ErrorKind::kCancelled, "regeneration: interrupted");
      }
      submit();
      if (flights_.empty()) return;
      if (const auto output = engine_.receive(Clock::now() + kPoll)) take(*output);
      journal_.sync();
      report();
    }
  }

  /// Enough that a finished sequence's place is taken in the next step.
  void submit() {
    const size_t places = 2 * size_t(std::max(1, options_.max_num_seqs)) *
                          size_t(std::max(1, engine_.info().replicas));
    for (; flights_.size() < places && next_ < prompts_.size(); ++next_) {
      if (!results_[size_t(next_)].empty()) continue;
      const auto given = prompt(next_);
      SubmitRequest request;
      request.request = uint64_t(next_) + 1;
      request.prompt.assign(given.begin(), given.end());
      request.sampling.temperature = temperature(next_);
      request.sampling.seed = seed(next_);
      request.sampling.max_tokens = options_.sequence_length - int(given.size());
      engine_.submit(request);
      flights_.emplace(request.request, Flight{next_, std::move(request.prompt)});
    }
  }

  void take(const RequestOutput& output) {
    const auto it = flights_.find(output.request);
    if (it == flights_.end()) return;
    auto& [id, tokens] = it->second;
    for (const OutputToken& token : output.tokens) tokens.push_back(token.token);
    generated_ += int64_t(output.tokens.size());
    switch (output.finish) {
      case FinishReason::kNone:
        return;
      case FinishReason::kStop:
        // The engine does not count the token that ended it as part of the answer.
        if (output.stop_token >= 0) tokens.push_back(output.stop_token);
        [[fallthrough]];
      case FinishReason::kLength:
        journal_.append(line(id, tokens));
        results_[size_t(id)] = std::move(tokens);
        ++done_;
        flights_.erase(it);
        return;
      case FinishReason::kCancelled:
      case FinishReason::kError:
        const int64_t failed = id;
        flights_.erase(it);
        if (!cancelled_) fail(failed, output.error);
        return;
    }
  }

  [[noreturn]] void fail(int64_t id, const std::string& why) {
    give_up();
    throw_error(ErrorKind::kResource, "regeneration: sequence {} failed: {}", id,
                why.empty() ? "it was cancelled" : why);
  }

  /// Waits for the engine to let go of what is in flight, so that it stays usable.
  void give_up() {
    cancelled_ = true;
    for (const auto& [request, flight] : flights_) engine_.cancel(request);
    const auto deadline = Clock::now() + kCancelPatience;
    while (!flights_.empty() && Clock::now() < deadline) {
      if (const auto output = engine_.receive(Clock::now() + kPoll)) take(*output);
    }
  }

  /// The run ends with an error: makes durable what can be, and says what is kept.
  std::string save() {
    try {
      journal_.sync(true);
    } catch (const Error&) {  // the first error is the one to tell
    }
    return fmt::format(" ({} of {} sequences are done and kept in {}; run it again for the rest)",
                       done_, prompts_.size(), options_.journal.string());
  }

  void report() const {
    if (!options_.progress) return;
    const double seconds = std::chrono::duration<double>(Clock::now() - started_).count();
    options_.progress(done_, prompts_.size(), generated_, seconds);
  }

  struct Flight {
    int64_t id = 0;
    std::vector<int32_t> tokens;  ///< prompt and what came so far
  };

  Engine& engine_;
  const TokenCorpus& prompts_;
  const RegenerateOptions& options_;
  std::vector<std::vector<int32_t>> results_;  ///< by id; empty: not done
  std::map<uint64_t, Flight> flights_;         ///< by the engine's request id
  int64_t next_ = 0, done_ = 0, generated_ = 0;
  bool cancelled_ = false;
  Journal journal_;
  Clock::time_point started_;
};

}  // namespace

TokenCorpus regenerate(Engine& engine, const TokenCorpus& prompts,
                       const RegenerateOptions& options) {
  return Regeneration(engine, prompts, options).run();
}

}  // namespace convoke
