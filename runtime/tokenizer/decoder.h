// The "decoder" section of tokenizer.json: tokens back to text, as a chain of stages that work
// while tokens come in. Decoding a whole list and streaming are the same code.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/tokenizer/json_value.h"

namespace convoke {

/// Receives tokens piece by piece. Every piece is whole characters of valid UTF-8.
class TokenSink {
 public:
  virtual ~TokenSink() = default;
  virtual void text(std::string_view part) = 0;  ///< more of the current token
  virtual void end_token() = 0;                  ///< the current token (maybe empty) is complete
  virtual void finish() = 0;                     ///< no more tokens
};

/// A running chain: give tokens to `front`, take the text from `out`.
class DecodeChain {
 public:
  void push(std::string_view token);
  void finish() { front_->finish(); }
  std::string& out() { return *out_; }

 private:
  friend class Decoder;
  std::unique_ptr<std::string> out_;                // at a fixed place: the last stage writes it
  std::vector<std::unique_ptr<TokenSink>> stages_;  // last stage first
  TokenSink* front_ = nullptr;
};

/// Makes the next-to-last stage of a chain, and so on.
class DecodeStep {
 public:
  virtual ~DecodeStep() = default;
  virtual std::unique_ptr<TokenSink> start(TokenSink& next) const = 0;
};

class Decoder {
 public:
  /// Without a section: tokens joined by spaces.
  Decoder();
  /// Supported: Sequence, ByteLevel, Metaspace, Replace, ByteFallback, Fuse, Strip. Throws
  /// Error(kModel) for anything else.
  explicit Decoder(const JsonValue& json);

  /// Replaces `from` by `to` in the finished text, after all steps before.
  void add_replacement(std::string from, std::string to);

  DecodeChain start() const;

 private:
  void add(const JsonValue& json);
  std::vector<std::unique_ptr<DecodeStep>> steps_;
};

}  // namespace convoke
