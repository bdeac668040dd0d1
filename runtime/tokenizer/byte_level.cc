#include "runtime/tokenizer/byte_level.h"

#include "runtime/tokenizer/unicode.h"

namespace convoke::byte_level {
namespace {

constexpr uint32_t kMapped = 0x144;  // one past the highest character of the alphabet

constexpr bool prints(uint32_t byte) {
  return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xAC) || byte >= 0xAE;
}

constexpr std::array<uint32_t, 256> make_characters() {
  std::array<uint32_t, 256> map{};
  uint32_t next = 0x100;
  for (uint32_t byte = 0; byte < 256; ++byte) map[byte] = prints(byte) ? byte : next++;
  return map;
}

constexpr std::array<uint32_t, 256> kCharacters = make_characters();

constexpr std::array<int16_t, kMapped> make_bytes() {
  std::array<int16_t, kMapped> map{};
  for (auto& value : map) value = -1;
  for (size_t byte = 0; byte < 256; ++byte) map[kCharacters[byte]] = static_cast<int16_t>(byte);
  return map;
}

constexpr std::array<int16_t, kMapped> kBytes = make_bytes();

}  // namespace

const std::array<uint32_t, 256>& characters() {
  return kCharacters;
}

int byte_of(uint32_t code_point) {
  return code_point < kMapped ? kBytes[code_point] : -1;
}

std::string to_characters(std::string_view bytes) {
  std::string out;
  out.reserve(bytes.size() * 2);
  for (const char c : bytes) {
    unicode::append_code_point(out, kCharacters[static_cast<uint8_t>(c)]);
  }
  return out;
}

bool append_bytes(std::string& out, std::string_view text) {
  const size_t before = out.size();
  for (size_t at = 0; at < text.size();) {
    const int byte = byte_of(unicode::next_code_point(text, at));
    if (byte < 0) {
      out.resize(before);
      return false;
    }
    out.push_back(static_cast<char>(byte));
  }
  return true;
}

}  // namespace convoke::byte_level
