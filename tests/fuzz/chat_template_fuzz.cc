// A chat template from hostile bytes, rendered for messages of every shape. The work that it may
// take is little, so that a slow sanitizer build ends in time; what a template cannot be kept from
// doing with little work it could not be kept from with much.
#include <cstdint>
#include <string_view>

#include "kernels/check.h"
#include "runtime/chat_template/chat_template.h"
#include "runtime/tokenizer/unicode.h"

namespace {

const convoke::ChatInput& input() {
  static const convoke::ChatInput value = [] {
    convoke::ChatInput out;
    out.messages = nlohmann::ordered_json::parse(R"([
      {"role": "system", "content": "Be brief."},
      {"role": "user", "content": "  na\u00efve \u6771\u4eac \ud83d\ude00\n"},
      {"role": "assistant", "content": null, "tool_calls": [{"id": "call00001", "type": "function",
        "function": {"name": "f", "arguments": {"a": [1, 2.5, true, null, {"b": "c"}]}}}]},
      {"role": "tool", "content": "<think>x</think>y", "tool_call_id": "call00001"},
      {"role": "user", "content": [{"type": "text", "text": "z"}, {"type": "image"}]}])");
    out.tools = nlohmann::ordered_json::parse(
        R"([{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}])");
    out.extra = nlohmann::ordered_json::parse(
        R"({"n": 7, "zero": 0, "f": 2.5, "big": 9007199254740993, "yes": true, "no": false, "nil": null,
            "s": "Hello World", "u": "stra\u00dfe \u03a3\u0391\u03a3 e\u0301", "ws": " \t\u00a0x ",
            "nums": [3, 1, 2, 3], "words": ["b", "A", "c"], "mixed": [1, "a", null, 2.0, [1], {"k": 1}],
            "d": {"b": 1, "a": 2, "items": 3, "nested": {"x": [10, 20]}},
            "people": [{"name": "Zoe", "age": 30, "on": true, "tags": ["x"]}, {"name": "adam", "age": 25}],
            "deep": {"z": [1, {"y": "\u00e9\"\n"}], "e": [], "o": {}, "f": 1e22}})");
    out.add_generation_prompt = true;
    out.bos_token = "<s>";
    out.eos_token = "</s>";
    out.now = 1700000000;
    return out;
  }();
  return value;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  constexpr uint64_t kWork = uint64_t{1} << 21;
  try {
    const std::string_view source(reinterpret_cast<const char*>(data), size);
    const auto parsed = convoke::ChatTemplate::parse(source, "template");
    const std::string out = parsed.render(input(), kWork);
    CONVOKE_CHECK(convoke::unicode::is_valid_utf8(out));
  } catch (const convoke::Error&) {
  }
  return 0;
}
