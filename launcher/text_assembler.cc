#include "launcher/text_assembler.h"

#include <algorithm>
#include <utility>

#include "kernels/check.h"

namespace convoke {

namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";  // U+FFFD
constexpr std::string_view kLowerBlock = "\xE2\x96\x81";   // U+2581, SentencePiece's space

TokenLogprobs name_logprobs(const Tokenizer& tokenizer, const OutputToken& token, size_t offset) {
  TokenLogprobs named;
  named.token = token_name(tokenizer, token.token);
  named.offset = offset;
  named.logprob = token.logprobs.front().logprob;
  for (size_t i = 1; i < token.logprobs.size(); ++i) {
    const TokenLogprob& top = token.logprobs[i];
    if (top.token < 0) continue;
    std::string name = token_name(tokenizer, top.token);
    const auto same = [&](const auto& other) { return other.first == name; };
    if (std::ranges::any_of(named.top, same)) name = tokenizer.id_to_token(top.token);
    named.top.emplace_back(std::move(name), top.logprob);
  }
  return named;
}

}  // namespace

std::string token_name(const Tokenizer& tokenizer, int32_t token) {
  std::string name = tokenizer.id_to_token(token);
  if (tokenizer.is_special(token)) return name;
  const int32_t ids[] = {token};
  std::string text = tokenizer.decode(ids, false);
  if (text.find(kReplacement) != std::string::npos) return name;
  // SentencePiece decoders drop the space of a first word; here the token stands for itself.
  if (name.starts_with(kLowerBlock) && !text.starts_with(' ')) text.insert(0, 1, ' ');
  return text.empty() ? name : text;
}

size_t count_characters(std::string_view text) {
  return size_t(std::ranges::count_if(text, [](char c) { return (c & 0xC0) != 0x80; }));
}

TextAssembler::TextAssembler(const Tokenizer& tokenizer, TextOptions options)
    : tokenizer_(tokenizer),
      decoder_(tokenizer),
      stops_(std::move(options.stop)),
      min_tokens_(size_t(std::max(0, options.min_tokens))) {}

std::vector<TextPiece> TextAssembler::take(const RequestOutput& output) {
  CONVOKE_CHECK(!closed_);
  for (const OutputToken& token : output.tokens) {
    if (complete()) break;
    take_token(token);
  }
  if (output.finish != FinishReason::kNone) {
    closed_ = true;
    stats_ = output.stats;
    if (!complete()) {
      error_ = output.error;
      append(decoder_.finish(), false);
      // What was left over may itself have completed a stop string.
      if (!complete()) complete_with(output.finish);
    }
  }
  return release();
}

void TextAssembler::take_token(const OutputToken& token) {
  tokens_.push_back(token.token);
  if (!token.logprobs.empty()) {
    logprobs_.push_back(name_logprobs(tokenizer_, token, text_.size()));
  }
  append(decoder_.push(token.token), token.drafted);
}

void TextAssembler::append(const std::string& text, bool drafted) {
  if (text.empty()) return;
  text_ += text;
  segments_.push_back({text_.size(), drafted});
  if (tokens_.size() <= min_tokens_) search_from_ = text_.size();
  searched_ = std::max(searched_, search_from_);
  const auto cut =
      stops_.find(std::string_view(text_).substr(search_from_), searched_ - search_from_);
  searched_ = text_.size();
  if (cut) {
    text_.resize(search_from_ + *cut);
    complete_with(FinishReason::kStop);
  }
}

void TextAssembler::complete_with(FinishReason reason) {
  finish_ = reason;
  const bool cut = text_.size() < searched_;
  while (cut && !logprobs_.empty() && logprobs_.back().offset >= text_.size()) logprobs_.pop_back();
}

std::vector<TextPiece> TextAssembler::release() {
  size_t end = text_.size();
  if (!complete()) end -= stops_.held_back(std::string_view(text_).substr(search_from_));
  std::vector<TextPiece> pieces;
  size_t used = 0;
  for (const Segment& segment : segments_) {
    const size_t stop = std::min(segment.end, end);
    if (stop > released_) {
      pieces.push_back({text_.substr(released_, stop - released_), segment.drafted});
      released_ = stop;
    }
    if (segment.end > released_) break;
    ++used;
  }
  segments_.erase(segments_.begin(), segments_.begin() + ptrdiff_t(used));
  return pieces;
}

std::string_view TextAssembler::finish_name() const {
  switch (finish_) {
    case FinishReason::kNone:
      return "";
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kCancelled:
      return "cancelled";
    case FinishReason::kError:
      return "error";
  }
  return "";
}

}  // namespace convoke
