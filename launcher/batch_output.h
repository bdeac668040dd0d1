// Lines of a batch job's output in OpenAI's form. Pure, and functions of the request and its
// tokens alone: no clock and no counter, so that a job that was resumed writes the same bytes.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "launcher/batch_lines.h"
#include "launcher/text_assembler.h"

namespace convoke {

/// 128-bit FNV-1a of the parts, each with its length, as 32 hexadecimal digits.
std::string hash_name(std::initializer_list<std::string_view> parts);

struct FinishedChoice {
  const TextAssembler* text = nullptr;
  std::string_view echo;  ///< prompt text to stand before it
};

/// The result of a request: choices in order of index. `created` is 0, since a time would differ
/// when the line is made again. No LF at the end.
std::string result_line(const BatchRequest& request, std::string_view model, uint64_t job_seed,
                        std::span<const FinishedChoice> choices, int64_t prompt_tokens);

/// The line of a request that can never run. `occurrence` tells apart lines that have no custom_id
/// of their own: the how-manieth of equal malformed lines, or of equal custom_ids.
std::string error_line(const LineError& error, std::string_view content, int64_t line_number,
                       int occurrence);

/// What an existing output line answers, for --resume.
struct AnsweredLine {
  enum class Kind {
    kRequest,    ///< `key` is its custom_id
    kDuplicate,  ///< a further request of custom_id `key`
    kMalformed,  ///< a line without custom_id; `key` is its content's hash
  } kind = Kind::kRequest;
  std::string key;
};
/// nullopt if it is not a line of a batch job's output.
std::optional<AnsweredLine> parse_answered_line(std::string_view line);

/// The key of a line without custom_id, as kMalformed has it.
std::string malformed_key(std::string_view content);

inline constexpr std::string_view kDuplicateCode = "duplicate_custom_id";

}  // namespace convoke
