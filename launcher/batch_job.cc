#include "launcher/batch_job.h"

#include <fmt/format.h>

#include <algorithm>
#include <utility>

#include "kernels/check.h"
#include "launcher/speculation_stats.h"

namespace convoke {

void Answers::add(const AnsweredLine& line) {
  switch (line.kind) {
    case AnsweredLine::Kind::kRequest:
      requests_.insert(hash_name({line.key}));
      return;
    case AnsweredLine::Kind::kDuplicate:
      ++duplicates_[hash_name({line.key})];
      return;
    case AnsweredLine::Kind::kMalformed:
      ++malformed_[line.key];
      return;
  }
}

bool Answers::has(AnsweredLine::Kind kind, std::string_view key, int occurrence) const {
  const auto counted = [&](const auto& counts, const std::string& name) {
    const auto it = counts.find(name);
    return it != counts.end() && it->second >= occurrence;
  };
  switch (kind) {
    case AnsweredLine::Kind::kRequest:
      return requests_.contains(hash_name({key}));
    case AnsweredLine::Kind::kDuplicate:
      return counted(duplicates_, hash_name({key}));
    case AnsweredLine::Kind::kMalformed:
      return counted(malformed_, std::string(key));
  }
  return false;
}

/// One request of the input, answered when all its choices are complete.
struct BatchJob::Line {
  struct Choice {
    TextAssembler text;
    bool counted = false;  ///< complete, and no longer in `incomplete`
  };

  BatchRequest request;
  std::vector<std::string> echoes;  ///< [prompts] if asked for
  std::vector<std::unique_ptr<Choice>> choices;
  int64_t prompt_tokens = 0;
  int incomplete = 0;
  bool ended = false;  ///< answered, or given up
};

BatchJob::BatchJob(Engine& engine, Config config, Answers answers)
    : engine_(engine), config_(std::move(config)), answers_(std::move(answers)) {}

void BatchJob::take_line(std::string_view content, int64_t number) {
  auto parsed = parse_batch_line(content, config_.defaults);
  if (auto* error = std::get_if<LineError>(&parsed); error && !error->custom_id) {
    const std::string key = malformed_key(content);
    const int occurrence = ++repeats_["malformed " + key];
    if (answers_.has(AnsweredLine::Kind::kMalformed, key, occurrence)) {
      ++counts_.before;
    } else {
      refuse(std::move(*error), content, number, occurrence);
    }
    return;
  }
  const auto* request = std::get_if<BatchRequest>(&parsed);
  const std::string id = request ? request->custom_id : *std::get<LineError>(parsed).custom_id;
  if (!seen_.insert(hash_name({id})).second) {
    const int occurrence = ++repeats_["duplicate " + hash_name({id})];
    if (answers_.has(AnsweredLine::Kind::kDuplicate, id, occurrence)) {
      ++counts_.before;
      return;
    }
    refuse({id, std::string(kDuplicateCode), "custom_id: an earlier line has the same"}, content,
           number, occurrence);
    return;
  }
  if (answers_.has(AnsweredLine::Kind::kRequest, id, 1)) {
    ++counts_.before;
  } else if (request) {
    queue(std::get<BatchRequest>(std::move(parsed)), content, number);
  } else {
    refuse(std::get<LineError>(std::move(parsed)), content, number, 1);
  }
}

void BatchJob::refuse(LineError error, std::string_view content, int64_t number, int occurrence) {
  config_.write(error_line(error, content, number, occurrence));
  ++counts_.refused;
}

std::vector<std::vector<int32_t>> BatchJob::encode(BatchRequest& request) const {
  const Tokenizer& tokenizer = engine_.tokenizer();
  const int limit = engine_.info().max_model_len;
  const int vocabulary = engine_.config().vocabulary;
  std::vector<std::vector<int32_t>> prompts;
  size_t longest = 0;
  for (const BatchPrompt& prompt : request.prompts) {
    std::vector<int32_t> tokens;
    if (const auto* text = std::get_if<std::string>(&prompt)) {
      tokens = tokenizer.encode(*text, {.add_special_tokens = request.add_special_tokens});
    } else {
      tokens = std::get<std::vector<int32_t>>(prompt);
    }
    if (tokens.empty()) throw_error(ErrorKind::kUsage, "prompt: has no tokens");
    const auto highest = *std::ranges::max_element(tokens);
    if (highest >= vocabulary) {
      throw_error(ErrorKind::kUsage, "prompt: token {} is outside the vocabulary of {}", highest,
                  vocabulary);
    }
    longest = std::max(longest, tokens.size());
    prompts.push_back(std::move(tokens));
  }
  if (limit > 0 && longest >= size_t(limit)) {
    throw_error(ErrorKind::kUsage,
                "prompt: has {} tokens, which leaves no room in the model's context of {}", longest,
                limit);
  }
  return prompts;
}

void BatchJob::queue(BatchRequest request, std::string_view content, int64_t number) {
  warn_about(request);
  auto line = std::make_shared<Line>();
  line->request = std::move(request);
  try {
    validate(line->request.sampling, engine_.config().vocabulary);
    submit(line, encode(line->request));
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::kUsage) throw;
    line->ended = true;
    cancel_line(*line);
    refuse({line->request.custom_id, "invalid_request", error.what()}, content, number, 1);
  }
}

void BatchJob::submit(const std::shared_ptr<Line>& line,
                      std::vector<std::vector<int32_t>> prompts) {
  const BatchRequest& request = line->request;
  const Tokenizer& tokenizer = engine_.tokenizer();
  const int limit = engine_.info().max_model_len;
  line->incomplete = request.choices();
  for (size_t p = 0; p < prompts.size(); ++p) {
    line->prompt_tokens += int64_t(prompts[p].size());
    if (request.echo) {
      const auto* text = std::get_if<std::string>(&request.prompts[p]);
      line->echoes.push_back(text ? *text : tokenizer.decode(prompts[p]));
    }
    for (int c = 0; c < request.n; ++c) {
      SubmitRequest submitted{next_request_++, prompts[p], request.sampling};
      const int index = int(p) * request.n + c;
      submitted.sampling.seed = choice_seed(request.sampling.seed, index);
      if (limit > 0) {
        const int room = limit - int(prompts[p].size());
        submitted.sampling.max_tokens = std::min(submitted.sampling.max_tokens, room);
        submitted.sampling.min_tokens =
            std::min(submitted.sampling.min_tokens, submitted.sampling.max_tokens);
      }
      engine_.submit(submitted);
      const TextOptions options{request.stop, submitted.sampling.min_tokens};
      line->choices.push_back(
          std::make_unique<Line::Choice>(Line::Choice{TextAssembler(tokenizer, options)}));
      flights_.emplace(submitted.request, Flight{line, size_t(index)});
    }
  }
}

void BatchJob::take_output(const RequestOutput& output) {
  const auto it = flights_.find(output.request);
  if (it == flights_.end()) return;
  const Flight flight = it->second;
  Line& line = *flight.line;
  Line::Choice& choice = *line.choices[flight.index];
  counts_.tokens += int64_t(output.tokens.size());
  choice.text.take(output);
  if (choice.text.closed()) {
    add_stats(stats_, choice.text.stats());
    flights_.erase(it);
  }
  if (line.ended || choice.counted || !choice.text.complete()) return;
  const FinishReason finish = choice.text.finish();
  if (finish == FinishReason::kError || finish == FinishReason::kCancelled) {
    fail_line(line, finish == FinishReason::kError ? choice.text.error() : "it was cancelled");
    return;
  }
  choice.counted = true;
  if (choice.text.wants_cancel()) engine_.cancel(output.request);
  if (--line.incomplete == 0) finish_line(line);
}

void BatchJob::finish_line(Line& line) {
  std::vector<FinishedChoice> choices;
  for (size_t i = 0; i < line.choices.size(); ++i) {
    choices.push_back({&line.choices[i]->text, {}});
    if (line.request.echo) choices.back().echo = line.echoes[i / size_t(line.request.n)];
  }
  config_.write(result_line(line.request, config_.model, config_.defaults.job_seed, choices,
                            line.prompt_tokens));
  ++counts_.answered;
  line.ended = true;
}

void BatchJob::fail_line(Line& line, const std::string& why) {
  line.ended = true;
  cancel_line(line);
  if (cancelled_) return;
  ++counts_.failed;
  config_.warn(fmt::format("request '{}' failed: {}", line.request.custom_id, why));
}

void BatchJob::cancel_line(const Line& line) {
  for (const auto& [id, flight] : flights_) {
    if (flight.line.get() == &line) engine_.cancel(id);
  }
}

void BatchJob::cancel_all() {
  cancelled_ = true;
  for (const auto& [id, flight] : flights_) engine_.cancel(id);
}

void BatchJob::warn_about(const BatchRequest& request) {
  for (const std::string& field : request.unknown_fields) {
    warn_once("field " + field, fmt::format("body field '{}' is not known and ignored", field));
  }
  if (!request.model.empty() && config_.is_our_model && !config_.is_our_model(request.model)) {
    warn_once("model " + request.model, fmt::format("requests for model '{}' are answered by '{}'",
                                                    request.model, config_.model));
  }
}

void BatchJob::warn_once(const std::string& key, const std::string& message) {
  constexpr size_t kMaxWarnings = 20;
  if (warned_.size() < kMaxWarnings && warned_.insert(key).second) config_.warn(message);
}

}  // namespace convoke
