// GPT-2's one-to-one mapping of bytes to printable characters, in which byte-level vocabularies are
// written: printable Latin-1 bytes stand for themselves, the other 68 for U+0100 onwards in order.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace convoke::byte_level {

/// Code point that stands for each byte.
const std::array<uint32_t, 256>& characters();

/// Byte that `code_point` stands for, or -1.
int byte_of(uint32_t code_point);

/// Every byte as its character.
std::string to_characters(std::string_view bytes);

/// Appends the bytes that `text` stands for; false (and nothing appended) where a character stands
/// for none.
bool append_bytes(std::string& out, std::string_view text);

}  // namespace convoke::byte_level
