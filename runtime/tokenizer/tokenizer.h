// Text to token ids and back, from a Hugging Face tokenizer.json.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace convoke {

struct EncodeOptions {
  bool add_special_tokens = true;    ///< apply the post-processor template (BOS / EOS)
  bool parse_special_tokens = true;  ///< recognise special tokens' text in the input; other added
                                     ///< tokens always are, as in the reference
};

/// Text of ids that come one by one; see StreamingDecoder.
class TokenStream {
 public:
  virtual ~TokenStream() = default;
  virtual std::string push(int32_t id) = 0;
  virtual std::string finish() = 0;
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Reads DIR/tokenizer.json and, where they are, tokenizer_config.json, special_tokens_map.json
  /// and chat_template.jinja. Throws Error(kModel) that names file and key for anything missing,
  /// malformed or not supported. Supported are BPE models with the steps listed at make_normalizer,
  /// PreTokenizer, Decoder and PostProcessor; truncation and padding sections are ignored.
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& directory);

  /// The same from the texts of tokenizer.json and tokenizer_config.json; `name` stands for the
  /// directory in errors.
  static std::unique_ptr<Tokenizer> parse(std::string_view tokenizer_json,
                                          std::string_view tokenizer_config = "{}",
                                          const std::string& name = "tokenizer");

  virtual int vocabulary() const = 0;  ///< highest id + 1, added tokens included
  /// Ids as the reference library gives them. Any bytes: invalid UTF-8 is replaced by U+FFFD first,
  /// as the reference does. Thread-safe.
  virtual std::vector<int32_t> encode(std::string_view text,
                                      const EncodeOptions& options = {}) const = 0;
  virtual std::string decode(std::span<const int32_t> ids,
                             bool skip_special_tokens = true) const = 0;

  virtual std::optional<int32_t> token_to_id(std::string_view token) const = 0;
  virtual std::string id_to_token(int32_t id) const = 0;  ///< vocabulary form; "" if unknown
  virtual bool is_special(int32_t id) const = 0;

  virtual std::optional<int32_t> bos() const = 0;
  virtual std::optional<int32_t> eos() const = 0;
  virtual const std::string& chat_template() const = 0;  ///< Jinja source, "" if none

  /// What StreamingDecoder works with. The default decodes all ids again with each one, which is
  /// right (though slow) for tokenizers whose text only ever grows. The tokenizer must outlive it.
  virtual std::unique_ptr<TokenStream> stream(bool skip_special_tokens) const;
};

/// Turns a growing list of ids into text as it comes. Never emits half a UTF-8 character: bytes are
/// held back until complete. The concatenation of all pieces equals Tokenizer::decode of all ids.
/// SentencePiece byte tokens (<0xHH>) are held back until their run ends, because the whole run
/// becomes U+FFFD if it does not end as valid UTF-8. The tokenizer must outlive the decoder.
class StreamingDecoder {
 public:
  StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~StreamingDecoder();
  StreamingDecoder(StreamingDecoder&&) noexcept;
  StreamingDecoder& operator=(StreamingDecoder&&) noexcept;
  std::string push(int32_t id);  ///< text that became certain with this token
  std::string finish();          ///< what is left (an incomplete character becomes U+FFFD)

 private:
  std::unique_ptr<TokenStream> stream_;
};

}  // namespace convoke
