// tokenizer.json from hostile bytes; what loads must encode and decode. The bytes are also text for
// a small byte-level tokenizer and one with byte fallback, whose streams must give what decode
// does.
#include <cstdint>
#include <cstdlib>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

namespace {

void use(const convoke::Tokenizer& tokenizer, std::string_view text) {
  const auto ids = tokenizer.encode(text);
  for (const bool skip : {false, true}) {
    convoke::StreamingDecoder stream(tokenizer, skip);
    std::string pieces;
    for (const int32_t id : ids) {
      const std::string piece = stream.push(id);
      CONVOKE_CHECK(convoke::unicode::is_valid_utf8(piece));
      pieces += piece;
    }
    pieces += stream.finish();
    CONVOKE_CHECK_EQ(pieces, tokenizer.decode(ids, skip));
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  static const auto demo = convoke::Tokenizer::load(CONVOKE_SOURCE_DIR "/demo/model");
  static const auto sentencepiece =
      convoke::Tokenizer::load(CONVOKE_SOURCE_DIR "/tests/golden/tokenizers/llama2_legacy");
  use(*demo, all);
  use(*sentencepiece, all);
  // Nothing is lost on the way through bytes.
  const auto ids = demo->encode(all, {.add_special_tokens = false, .parse_special_tokens = false});
  CONVOKE_CHECK_EQ(demo->decode(ids, false), convoke::unicode::replace_invalid(all));
  try {
    const auto tokenizer = convoke::Tokenizer::parse(all);
    use(*tokenizer, "Hello, w\u00f6rld! 123\n\n  <s> \u4f60\u597d ab\xff");
    use(*tokenizer, all.substr(0, 500));
  } catch (const convoke::Error&) {
  }
  return 0;
}
