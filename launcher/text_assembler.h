// From a request's outputs to its text: detokenization, stop strings, finish reason, logprobs and
// usage. Pure: no engine, no clock. What it makes depends on the tokens only, never on how they
// were grouped into outputs.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "actors/messages.h"
#include "launcher/stop_matcher.h"
#include "runtime/tokenizer/tokenizer.h"

namespace convoke {

struct TextOptions {
  std::vector<std::string> stop;
  int min_tokens = 0;  ///< stop strings are looked for behind the text of these
};

/// Text that became certain. `drafted`: from an accepted draft token.
struct TextPiece {
  std::string text;
  bool drafted = false;
};

/// Log-probabilities of one output token. `top` is descending; its tokens' names are distinct.
struct TokenLogprobs {
  std::string token;
  size_t offset = 0;  ///< bytes of output text before it
  float logprob = 0;
  std::vector<std::pair<std::string, float>> top;
};

class TextAssembler {
 public:
  TextAssembler(const Tokenizer& tokenizer, TextOptions options);

  /// Takes the next output of the request. Behind a match of a stop string tokens are ignored.
  std::vector<TextPiece> take(const RequestOutput& output);

  /// The text is complete: the engine ended the request, or a stop string matched.
  bool complete() const { return finish_ != FinishReason::kNone; }
  /// The engine has said its last word on the request (and `stats` are known).
  bool closed() const { return closed_; }
  /// The engine still works on a request whose text is complete: to be cancelled.
  bool wants_cancel() const { return complete() && !closed_; }

  const std::string& text() const { return text_; }
  /// All tokens, up to and with the one that completed a stop string.
  const std::vector<int32_t>& tokens() const { return tokens_; }
  /// Of the tokens whose text begins before the end of the text.
  const std::vector<TokenLogprobs>& logprobs() const { return logprobs_; }
  FinishReason finish() const { return finish_; }
  /// "stop", "length", "cancelled" or "error"; "" while not complete.
  std::string_view finish_name() const;
  const std::string& error() const { return error_; }
  const RequestStats& stats() const { return stats_; }

 private:
  struct Segment {
    size_t end;
    bool drafted;
  };

  void take_token(const OutputToken& token);
  void append(const std::string& text, bool drafted);
  void complete_with(FinishReason reason);
  std::vector<TextPiece> release();

  const Tokenizer& tokenizer_;
  StreamingDecoder decoder_;
  StopMatcher stops_;
  size_t min_tokens_;
  std::string text_;
  size_t search_from_ = 0;  ///< end of the text that stop strings do not see
  size_t searched_ = 0;
  size_t released_ = 0;
  std::vector<Segment> segments_;  ///< of the text not yet released
  std::vector<int32_t> tokens_;
  std::vector<TokenLogprobs> logprobs_;
  FinishReason finish_ = FinishReason::kNone;
  bool closed_ = false;
  std::string error_;
  RequestStats stats_;
};

/// A token by itself, for people: its text, or its name in the vocabulary where it has no text of
/// its own (special tokens, parts of a character).
std::string token_name(const Tokenizer& tokenizer, int32_t token);

/// Unicode characters in `text`, which is valid UTF-8.
size_t count_characters(std::string_view text);

}  // namespace convoke
