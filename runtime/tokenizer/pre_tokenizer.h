// The "pre_tokenizer" section of tokenizer.json: cuts normalised text into the words that the model
// encodes one by one.
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "kernels/function_ref.h"
#include "runtime/tokenizer/json_value.h"
#include "runtime/tokenizer/regex.h"

namespace convoke {

/// A part of the text; `at_start`: it begins where the input begins.
using PieceSink = FunctionRef<void(std::string_view piece, bool at_start)>;

/// One step. Thread-safe with a scratch per thread.
class SplitStep {
 public:
  virtual ~SplitStep() = default;
  /// Calls `sink` for the parts of `text` in order; parts may be empty.
  virtual void run(std::string_view text, bool at_start, RegexScratch& scratch,
                   PieceSink sink) const = 0;
};

class PreTokenizer {
 public:
  /// Without a section: the text is one word.
  PreTokenizer() = default;
  /// Supported: Sequence, Split, ByteLevel, Digits, Punctuation, Whitespace, WhitespaceSplit,
  /// Metaspace, CharDelimiterSplit. Throws Error(kModel) for anything else.
  explicit PreTokenizer(const JsonValue& json);

  /// Calls `word` for every non-empty word of `text` in order.
  void split(std::string_view text, bool at_start, RegexScratch& scratch,
             FunctionRef<void(std::string_view)> word) const;

  /// True if words stand for raw bytes because the last step was ByteLevel, whose mapping to
  /// characters is then left to the model (it looks bytes up directly).
  bool ends_in_bytes() const { return ends_in_bytes_; }

  /// Makes split() map bytes to characters after all, for models that must see characters.
  void map_bytes_to_characters();

 private:
  void add(const JsonValue& json);
  void run_from(size_t step, std::string_view text, bool at_start, RegexScratch& scratch,
                FunctionRef<void(std::string_view)> word) const;

  std::vector<std::unique_ptr<SplitStep>> steps_;
  bool ends_in_bytes_ = false;
};

}  // namespace convoke
