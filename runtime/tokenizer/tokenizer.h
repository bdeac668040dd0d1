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
  bool parse_special_tokens = true;  ///< recognise added tokens' text in the input
};

class Tokenizer {
 public:
  virtual ~Tokenizer() = default;

  /// Reads DIR/tokenizer.json and tokenizer_config.json. Throws Error(kModel) that names file and
  /// key for anything missing, malformed or not supported.
  static std::unique_ptr<Tokenizer> load(const std::filesystem::path& directory);

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
};

/// Turns a growing list of ids into text as it comes. Never emits half a UTF-8 character: bytes are
/// held back until complete. The concatenation of all pieces equals Tokenizer::decode of all ids.
class StreamingDecoder {
 public:
  StreamingDecoder(const Tokenizer& tokenizer, bool skip_special_tokens = true);
  ~StreamingDecoder();
  StreamingDecoder(StreamingDecoder&&) noexcept;
  std::string push(int32_t id);  ///< text that became certain with this token
  std::string finish();          ///< what is left (an incomplete character becomes U+FFFD)

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace convoke
