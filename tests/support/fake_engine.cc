#include "tests/support/fake_engine.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace convoke::testing {

namespace {

uint64_t mix(uint64_t x) {  // splitmix64's finaliser
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

/// Bytes to valid UTF-8: what is not a complete character becomes U+FFFD, byte by byte.
std::string repair(const std::string& bytes) {
  std::string text;
  for (size_t i = 0; i < bytes.size();) {
    const auto lead = uint8_t(bytes[i]);
    const size_t length = lead < 0x80                   ? 1
                          : lead >= 0xC2 && lead < 0xE0 ? 2
                          : lead >= 0xE1 && lead < 0xED ? 3
                                                        : 0;
    bool whole = length > 0 && i + length <= bytes.size();
    for (size_t j = 1; whole && j < length; ++j) whole = (bytes[i + j] & 0xC0) == 0x80;
    text += whole ? bytes.substr(i, length) : "\xEF\xBF\xBD";
    i += whole ? length : 1;
  }
  return text;
}

}  // namespace

FakeTokenizer::FakeTokenizer(std::vector<std::string> words) : words_(std::move(words)) {}

std::vector<int32_t> FakeTokenizer::encode(std::string_view text,
                                           const EncodeOptions& options) const {
  std::vector<int32_t> ids;
  if (options.add_special_tokens) ids.push_back(bos_id());
  for (size_t i = 0; i < text.size();) {
    size_t best = words_.size();
    for (size_t w = 0; w < words_.size(); ++w) {
      if (text.substr(i).starts_with(words_[w]) &&
          (best == words_.size() || words_[w].size() > words_[best].size())) {
        best = w;
      }
    }
    ids.push_back(best < words_.size() ? 256 + int32_t(best) : int32_t(uint8_t(text[i])));
    i += best < words_.size() ? words_[best].size() : 1;
  }
  return ids;
}

std::string FakeTokenizer::decode(std::span<const int32_t> ids, bool skip_special_tokens) const {
  std::string bytes;
  for (const int32_t id : ids) {
    if (id < 256) {
      bytes += char(id);
    } else if (id < bos_id()) {
      bytes += words_[size_t(id) - 256];
    } else if (!skip_special_tokens) {
      bytes += id_to_token(id);
    }
  }
  return repair(bytes);
}

std::optional<int32_t> FakeTokenizer::token_to_id(std::string_view token) const {
  for (int32_t id = 0; id < vocabulary(); ++id) {
    if (id_to_token(id) == token) return id;
  }
  return std::nullopt;
}

std::string FakeTokenizer::id_to_token(int32_t id) const {
  if (id == bos_id()) return "<s>";
  if (id == eos_id()) return "</s>";
  if (id < 0 || id > eos_id()) return "";
  return id < 256 ? fmt::format("<0x{:02X}>", id) : words_[size_t(id) - 256];
}

FakeEngine::FakeEngine(FakeEngineOptions options)
    : options_(std::move(options)), random_state_(mix(options_.grouping)) {
  config_.vocabulary = tokenizer_.vocabulary();
  config_.eos_tokens = {tokenizer_.eos_id()};
  config_.architecture_name = "FakeForCausalLM";
  info_.backend = "fake";
  info_.communicator = "none";
  info_.max_model_len = options_.max_model_len;
}

uint64_t FakeEngine::random() {
  return random_state_ = mix(random_state_);
}

void FakeEngine::plan(Active& active) const {
  const SamplingParams& sampling = active.request.sampling;
  uint64_t hash = mix(sampling.seed);
  for (const int32_t token : active.request.prompt) hash = mix(hash ^ uint64_t(token));
  const auto scripted = options_.script ? options_.script(active.request.prompt) : std::nullopt;
  for (int position = 0; position < sampling.max_tokens; ++position) {
    hash = mix(hash + uint64_t(position));
    int32_t token = int32_t(hash % uint64_t(tokenizer_.eos_id() - 32)) + 32;  // printable first
    if (hash % 29 == 0) token = tokenizer_.eos_id();
    if (scripted) {
      const auto index = size_t(position);
      token = index < scripted->size() ? (*scripted)[index] : tokenizer_.eos_id();
    }
    const bool ends = token == tokenizer_.eos_id() && !sampling.ignore_eos;
    if (ends && position >= sampling.min_tokens) {
      active.finish = FinishReason::kStop;
      active.stop_token = token;
      return;
    }
    active.planned.push_back(ends ? int32_t('e') : token);
  }
}

void FakeEngine::submit(const SubmitRequest& request) {
  CONVOKE_CHECK(!ended_ && !active_.contains(request.request));
  if (request.prompt.empty()) throw_error(ErrorKind::kUsage, "prompt: is empty");
  if (int(request.prompt.size()) + request.sampling.max_tokens > info_.max_model_len) {
    throw_error(ErrorKind::kUsage, "prompt: too long");
  }
  Active active{request, {}, FinishReason::kLength, -1, 0, false, {}};
  active.stats.prompt_tokens = int64_t(request.prompt.size());
  plan(active);
  if (drafter_ == corrupt_drafter && !active.planned.empty()) active.planned.back() ^= 1;
  active_.emplace(request.request, std::move(active));
  ++submitted_;
  most_in_flight_ = std::max(most_in_flight_, int(active_.size()));
}

void FakeEngine::cancel(uint64_t request) {
  const auto it = active_.find(request);
  if (it == active_.end()) return;
  if (!it->second.cancelled) ++cancelled_;
  it->second.cancelled = true;
}

std::optional<RequestOutput> FakeEngine::receive(Clock::time_point) {
  ++calls_;
  if (options_.pause_every > 0 && calls_ % options_.pause_every == 0) return std::nullopt;
  if (active_.empty()) return std::nullopt;
  if (options_.fail_after >= 0 && outputs_ >= options_.fail_after) {
    throw_error(ErrorKind::kPeer, "shard 1 of replica 0 (rank 1 on node7) is silent");
  }
  ++outputs_;
  const size_t places = std::min(active_.size(), size_t(options_.max_num_seqs));
  auto it = active_.begin();
  std::advance(it, ptrdiff_t(random() % places));
  RequestOutput output = next_output(it->second);
  if (output.finish != FinishReason::kNone) active_.erase(it);
  return output;
}

RequestOutput FakeEngine::next_output(Active& active) {
  RequestOutput output;
  output.request = active.request.request;
  RequestStats& stats = active.stats;
  const auto end = [&](FinishReason reason) {
    output.finish = reason;
    stats.output_tokens = int64_t(active.sent);
    stats.first_token_seconds = 0.01;
    stats.total_seconds = 0.01 + 0.002 * double(stats.decode_steps);
    stats.target_seconds = 0.0015 * double(stats.decode_steps);
    stats.other_seconds = 0.0005 * double(stats.decode_steps);
    output.stats = stats;
    return output;
  };
  if (active.cancelled) return end(FinishReason::kCancelled);
  ++stats.decode_steps;
  const bool drafting = drafter_ != "none";
  const size_t wanted = 1 + random() % uint64_t(drafting ? options_.longest_output : 1);
  const size_t count = std::min(wanted, active.planned.size() - active.sent);
  for (size_t i = 0; i < count; ++i) {
    OutputToken token;
    token.token = active.planned[active.sent++];
    token.drafted = i + 1 < count;
    const int logprobs = active.request.sampling.logprobs;
    if (logprobs >= 0) token.logprobs.push_back({token.token, -0.5f});
    for (int n = 0; n < logprobs; ++n) {
      token.logprobs.push_back({(token.token + n) % 256, -0.5f - float(n)});
    }
    output.tokens.push_back(std::move(token));
  }
  if (drafting) {
    ++stats.drafts;
    stats.draft_tokens += 4;
    stats.accepted_tokens += int64_t(count) - (count > 0 ? 1 : 0);
    stats.accepted_by_depth.resize(4);
    stats.drafted_by_depth.resize(4);
    for (size_t d = 0; d < 4; ++d) {
      ++stats.drafted_by_depth[d];
      stats.accepted_by_depth[d] += d + 1 < count ? 1 : 0;
    }
  }
  if (options_.breaks && options_.breaks(active.request.prompt)) {
    output.error = "no room in the cache";
    return end(FinishReason::kError);
  }
  if (active.sent < active.planned.size()) return output;
  output.stop_token = active.stop_token;
  return end(active.finish);
}

void FakeEngine::use_drafter(const DrafterSpec& spec) {
  CONVOKE_CHECK(active_.empty());
  if (options_.refused_drafters.contains(spec.text())) {
    throw_error(ErrorKind::kUsage, "drafter {} does not fit this model", spec.text());
  }
  drafter_ = spec.text();
  drafters_used_.push_back(drafter_);
}

FloorReport FakeEngine::measure_floor(std::span<const int> row_counts) {
  FloorReport report{50.0, 800.0, 1'000'000, {}};
  for (const int rows : row_counts) report.passes.push_back({rows, 1.0 + 0.1 * rows, 1.0});
  return report;
}

}  // namespace convoke::testing
