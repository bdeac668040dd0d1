#include <algorithm>

#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

class RedecodingStream : public TokenStream {
 public:
  RedecodingStream(const Tokenizer& tokenizer, bool skip_special_tokens)
      : tokenizer_(tokenizer), skip_(skip_special_tokens) {}

  std::string push(int32_t id) override {
    ids_.push_back(id);
    const std::string text = tokenizer_.decode(ids_, skip_);
    // A replacement character at the end may be a character that is not complete yet.
    if (text.ends_with(unicode::kReplacement)) return "";
    return advance(text);
  }

  std::string finish() override { return advance(tokenizer_.decode(ids_, skip_)); }

 private:
  std::string advance(const std::string& text) {
    const size_t from = std::min(written_, text.size());
    written_ = text.size();
    return text.substr(from);
  }

  const Tokenizer& tokenizer_;
  bool skip_;
  std::vector<int32_t> ids_;
  size_t written_ = 0;
};

}  // namespace

std::unique_ptr<TokenStream> Tokenizer::stream(bool skip_special_tokens) const {
  return std::make_unique<RedecodingStream>(*this, skip_special_tokens);
}

StreamingDecoder::StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens)
    : stream_(tokenizer.stream(skip_special_tokens)) {}
StreamingDecoder::~StreamingDecoder() = default;
StreamingDecoder::StreamingDecoder(StreamingDecoder&&) noexcept = default;
StreamingDecoder& StreamingDecoder::operator=(StreamingDecoder&&) noexcept = default;

std::string StreamingDecoder::push(int32_t id) {
  return stream_->push(id);
}
std::string StreamingDecoder::finish() {
  return stream_->finish();
}

}  // namespace convoke
