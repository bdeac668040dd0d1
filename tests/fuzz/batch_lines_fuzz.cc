// Lines of a batch input and of an output that a job is to complete, from anybody.
#include <cstdint>
#include <cstdlib>
#include <string_view>

#include "launcher/batch_lines.h"
#include "launcher/batch_output.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace convoke;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  BatchDefaults defaults;
  const auto parsed = parse_batch_line(text, defaults);
  if (const auto* error = std::get_if<LineError>(&parsed)) {
    // Whatever was wrong, the error line is one line that --resume recognises.
    const std::string line = error_line(*error, text, 1, 1);
    if (line.find('\n') != std::string::npos || !parse_answered_line(line)) std::abort();
  } else {
    const auto& request = std::get<BatchRequest>(parsed);
    if (request.custom_id.empty() || request.prompts.empty() || request.choices() < 1) std::abort();
  }
  parse_answered_line(text);
  return 0;
}
