// The "normalizer" section of tokenizer.json: text to text, before splitting.
#pragma once

#include <memory>
#include <string>

#include "runtime/tokenizer/json_value.h"
#include "runtime/tokenizer/regex.h"

namespace convoke {

/// Text in the making. `at_start` says whether its first character still stems from the very
/// beginning of the input, which Metaspace's prepend scheme "first" asks for.
struct NormalizedText {
  std::string text;
  bool at_start = false;
};

class Normalizer {
 public:
  virtual ~Normalizer() = default;
  /// `text` is valid UTF-8, before and after. Thread-safe with a scratch per thread.
  virtual void apply(NormalizedText& text, RegexScratch& scratch) const = 0;
};

/// Supported: Sequence, NFC, NFD, NFKC, NFKD, Lowercase, Replace, Prepend, Strip, ByteLevel. Throws
/// Error(kModel) for anything else.
std::unique_ptr<Normalizer> make_normalizer(const JsonValue& json);

/// {"String": ..} or {"Regex": ..}, as Split and Replace have it.
Pattern read_pattern(const JsonValue& json);

}  // namespace convoke
