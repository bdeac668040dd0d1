// What Python's str does, on valid UTF-8: positions count code points, white space and case are
// Unicode's.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoke::jinja::python {

size_t length(std::string_view text);                     ///< in code points
size_t byte_offset(std::string_view text, size_t index);  ///< of code point `index` <= length
std::string reversed(std::string_view text);

bool is_space(uint32_t code_point);  ///< str.isspace of one character
bool is_printable(uint32_t code_point);

/// Byte offset of `needle`, or npos; linear time whatever the texts.
size_t find(std::string_view text, std::string_view needle, size_t from = 0);
size_t rfind(std::string_view text, std::string_view needle);
/// Occurrences that do not overlap; of the empty text, as Python, length + 1.
size_t count(std::string_view text, std::string_view needle);
/// At most `most` occurrences from the left.
std::string replace(std::string_view text, std::string_view from, std::string_view to, size_t most);

/// Without `characters`: white space.
std::string_view strip(std::string_view text, std::optional<std::string_view> characters, bool left,
                       bool right);

inline constexpr size_t kNoLimit = SIZE_MAX;
/// Without a separator: at runs of white space, without empty pieces. The separator is not empty.
std::vector<std::string_view> split(std::string_view text,
                                    std::optional<std::string_view> separator, size_t most);
std::vector<std::string_view> rsplit(std::string_view text,
                                     std::optional<std::string_view> separator, size_t most);
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);

std::string upper(std::string_view text);
std::string lower(std::string_view text);
std::string title(std::string_view text);       ///< str.title, not the filter
std::string capitalize(std::string_view text);  ///< first character in title case, others lower
std::string swap_case(std::string_view text);
bool is_cased(uint32_t code_point);
bool is_upper(std::string_view text);  ///< str.isupper
bool is_lower(std::string_view text);
bool is_alphabetic(uint32_t code_point);
bool is_decimal(uint32_t code_point);
bool is_digit(uint32_t code_point);
bool is_numeric(uint32_t code_point);

/// The int() and float() of a text; nullopt where they raise ValueError. Integers that do not fit
/// 64 bits count as none.
std::optional<int64_t> parse_integer(std::string_view text, int base);
std::optional<double> parse_float(std::string_view text);

std::string quoted(std::string_view text);  ///< repr()
std::string float_text(double value);       ///< repr() of a float: the shortest that reads back

/// Upper or title case where it takes more than one character; nullptr elsewhere. case_tables.cc.
const char* special_upper(uint32_t code_point);
const char* special_title(uint32_t code_point);

}  // namespace convoke::jinja::python
