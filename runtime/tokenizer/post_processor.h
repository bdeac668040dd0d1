// The "post_processor" section of tokenizer.json: special tokens around the ids of a text.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/tokenizer/json_value.h"

namespace convoke {

class PostProcessor {
 public:
  /// Without a section: nothing is added.
  PostProcessor();
  /// Supported: TemplateProcessing (its "single" template), RobertaProcessing, BertProcessing,
  /// ByteLevel (which only moves offsets), and a Sequence with one of them. Ids must be below
  /// `vocabulary`. Throws Error(kModel).
  PostProcessor(const JsonValue& json, int32_t vocabulary);

  /// The ids with special tokens, or, without `add_special_tokens`, what the template makes of the
  /// text alone.
  std::vector<int32_t> apply(std::vector<int32_t> ids, bool add_special_tokens) const;

 private:
  struct Piece {
    bool is_text;
    std::vector<int32_t> ids;  // of special tokens
  };
  void add(const JsonValue& json, int32_t vocabulary);
  void read_template(const JsonValue& json, int32_t vocabulary);
  void read_pair(const JsonValue& json, int32_t vocabulary);

  std::vector<Piece> pieces_;
  bool found_ = false;  // a section that says what the template is
};

}  // namespace convoke
