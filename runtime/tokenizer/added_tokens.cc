#include "runtime/tokenizer/added_tokens.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

bool ends_with_word(std::string_view text) {
  if (text.empty()) return false;
  size_t at = unicode::previous_character(text, text.size());
  return unicode::is_word(unicode::next_code_point(text, at));
}

bool starts_with_word(std::string_view text) {
  size_t at = 0;
  return !text.empty() && unicode::is_word(unicode::next_code_point(text, at));
}

size_t end_of_leading_space(std::string_view text) {
  size_t end = 0;
  for (size_t at = 0; at < text.size(); end = at) {
    if (!unicode::is_white_space(unicode::next_code_point(text, at))) break;
  }
  return end;
}

size_t start_of_trailing_space(std::string_view text) {
  size_t start = text.size();
  while (start > 0) {
    const size_t before = unicode::previous_character(text, start);
    size_t at = before;
    if (!unicode::is_white_space(unicode::next_code_point(text, at))) break;
    start = before;
  }
  return start;
}

}  // namespace

void AddedTokens::add(const std::vector<Request>& requests) {
  int64_t next_id = model_->size();
  if (!by_id_.empty() && (by_id_.rbegin()->first >= next_id || next_id == 0)) {
    next_id = int64_t{by_id_.rbegin()->first} + 1;
  }
  for (const auto& request : requests) {
    const AddedToken& token = request.token;
    if (token.content.empty()) continue;
    const auto known = token_to_id(token.content);
    if (known && find(*known) && *find(*known) == token) continue;
    const int64_t id = known ? *known : next_id++;
    if (request.id && *request.id != id) {
      const std::string what =
          fmt::format("{}: \"{}\" has id {} here, but {} by the vocabulary and the order of tokens",
                      request.where, token.content, *request.id, id);
      if (request.id_must_agree) throw_error(ErrorKind::kModel, "{}", what);
      spdlog::warn("{}; the latter counts", what);
    }
    const auto key = static_cast<int32_t>(id);
    if (const auto it = by_id_.find(key);
        it != by_id_.end() && it->second.content != token.content) {
      throw_error(ErrorKind::kModel, "{}: \"{}\" and \"{}\" have the same id {}", request.where,
                  it->second.content, token.content, id);
    }
    if (token.normalized && normalizer_ != nullptr) {
      RegexScratch scratch;
      NormalizedText text{token.content, true};
      normalizer_->apply(text, scratch);
      if (text.text != token.content) normalized_[key] = text.text;
    }
    ids_.insert_or_assign(token.content, key);
    if (token.special) special_.insert(token.content);
    by_id_.insert_or_assign(key, token);
  }
}

void AddedTokens::finish(const std::string& where) {
  for (const auto& [id, token] : by_id_) {
    const auto it = token.normalized ? normalized_.find(id) : normalized_.end();
    const std::string& text = it == normalized_.end() ? token.content : it->second;
    if (text.empty()) {
      throw_error(ErrorKind::kModel,
                  "{}: added_tokens: nothing is left of \"{}\" (id {}) after the "
                  "normalizer",
                  where, token.content, id);
    }
    (token.normalized ? late_ : early_).patterns.push_back({text, id});
  }
  for (Matcher* matcher : {&early_, &late_}) {
    matcher->prepare();
    for (size_t i = 1; i < matcher->patterns.size(); ++i) {
      if (matcher->patterns[i].text != matcher->patterns[i - 1].text) continue;
      throw_error(ErrorKind::kModel,
                  "{}: added_tokens: ids {} and {} stand for the same text \"{}\"", where,
                  matcher->patterns[i - 1].id, matcher->patterns[i].id, matcher->patterns[i].text);
    }
  }
}

void AddedTokens::Matcher::prepare() {
  std::sort(patterns.begin(), patterns.end(),
            [](const Entry& a, const Entry& b) { return a.text < b.text; });
  first.assign(257, 0);
  for (const auto& entry : patterns) ++first[static_cast<uint8_t>(entry.text[0]) + size_t{1}];
  for (size_t byte = 0; byte < 256; ++byte) first[byte + 1] += first[byte];
}

const AddedTokens::Matcher::Entry* AddedTokens::Matcher::match(std::string_view text) const {
  const auto lead = static_cast<uint8_t>(text[0]);
  size_t low = first[lead], high = first[size_t{lead} + 1];
  const Entry* best = nullptr;
  // patterns[low, high) agree with the first `depth` bytes of the text.
  for (size_t depth = 1; low < high; ++depth) {
    if (patterns[low].text.size() == depth) best = &patterns[low++];
    if (depth >= text.size()) break;
    const auto byte = static_cast<uint8_t>(text[depth]);
    const auto at = [&](const Entry& entry) { return static_cast<uint8_t>(entry.text[depth]); };
    const auto begin = patterns.begin() + static_cast<std::ptrdiff_t>(low);
    const auto end = patterns.begin() + static_cast<std::ptrdiff_t>(high);
    const auto from =
        std::partition_point(begin, end, [&](const Entry& entry) { return at(entry) < byte; });
    const auto to =
        std::partition_point(from, end, [&](const Entry& entry) { return at(entry) == byte; });
    low = static_cast<size_t>(from - patterns.begin());
    high = static_cast<size_t>(to - patterns.begin());
  }
  return best;
}

void AddedTokens::split(std::string_view text, bool normalized, bool skip_special,
                        FunctionRef<void(std::string_view, bool)> piece,
                        FunctionRef<void(int32_t)> token) const {
  const Matcher& matcher = normalized ? late_ : early_;
  size_t written = 0;
  for (size_t at = 0; at < text.size() && !matcher.patterns.empty();) {
    const auto lead = static_cast<uint8_t>(text[at]);
    const auto* match = matcher.first[lead] == matcher.first[size_t{lead} + 1]
                            ? nullptr
                            : matcher.match(text.substr(at));
    if (match == nullptr) {
      ++at;
      continue;
    }
    size_t start = at, stop = at + match->text.size();
    at = stop;
    const AddedToken& added = by_id_.at(match->id);
    if (skip_special && special_.contains(added.content)) continue;
    if (added.single_word &&
        (ends_with_word(text.substr(0, start)) || starts_with_word(text.substr(stop)))) {
      continue;
    }
    if (added.lstrip) start = std::max(start_of_trailing_space(text.substr(0, start)), written);
    if (added.rstrip) stop += end_of_leading_space(text.substr(stop));
    if (written < start) piece(text.substr(written, start - written), written == 0);
    token(match->id);
    written = stop;
  }
  if (written < text.size()) piece(text.substr(written), written == 0);
}

std::optional<int32_t> AddedTokens::token_to_id(std::string_view token) const {
  const auto it = ids_.find(token);
  if (it != ids_.end()) return it->second;
  return model_->token_to_id(token);
}

const AddedToken* AddedTokens::find(int32_t id) const {
  const auto it = by_id_.find(id);
  return it == by_id_.end() ? nullptr : &it->second;
}

const std::string& AddedTokens::decode_text(int32_t id) const {
  const auto it = normalized_.find(id);
  return it == normalized_.end() ? by_id_.at(id).content : it->second;
}

}  // namespace convoke
