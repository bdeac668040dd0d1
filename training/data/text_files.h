// The files of `--data`: one document after the other, whatever their kind.
//
// FILE.jsonl has one document per line, an object with exactly one of
//   "text"      a string
//   "messages"  a list of {"role", "content"}, put into words by the model's chat template
//   "tokens"    a list of token ids, as regeneration writes them (training/data/regenerate.h)
// and whatever other keys. Blank lines count for nothing. Every other file is one text.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace convoke {

class LineReader;

/// The text of a conversation that ends with its last message (no generation prompt). Throws Error
/// for messages that the template refuses; the reader puts file and line in front.
using RenderChat = std::function<std::string(const nlohmann::ordered_json& messages)>;

struct TrainingDocument {
  enum class Kind {
    kText,   ///< `text`, to be encoded like a prompt
    kChat,   ///< `text` with the special tokens that the chat template wrote
    kTokens  ///< `tokens` as they are
  };
  Kind kind = Kind::kText;
  std::string text;
  std::vector<int32_t> tokens;  ///< each in [0, vocabulary)
  int file = 0;                 ///< index into the list of files
};

/// One line of a .jsonl file. Throws Error(kUsage) that begins with `where` ("FILE:LINE") for
/// anything but a document, a token outside [0, vocabulary) and, without `render_chat`, for
/// messages. Pure, as far as `render_chat` is.
TrainingDocument parse_training_line(std::string_view line, int vocabulary,
                                     const RenderChat& render_chat, const std::string& where);

struct TextFilesOptions {
  std::vector<std::filesystem::path> files;
  int vocabulary = 0;      ///< of the model
  RenderChat render_chat;  ///< empty: the model has no chat template
};

/// Documents in the order of files and lines. Memory: the longest line, or the whole of a file that
/// is one text (see next()). Not thread-safe.
class TextFiles {
 public:
  /// Throws Error(kUsage) for no file at all, a file named twice or one that is compressed, and
  /// Error(kResource) for one that cannot be opened: before anything is read.
  explicit TextFiles(TextFilesOptions options);
  ~TextFiles();
  TextFiles(const TextFiles&) = delete;
  TextFiles& operator=(const TextFiles&) = delete;

  /// The next document; nullopt after the last. Of a file that is one text at most `text_limit`
  /// bytes are read (whole characters). Throws Error(kUsage) naming file and line of what is wrong:
  /// see parse_training_line; also a file without any document, or one that is not text.
  std::optional<TrainingDocument> next(size_t text_limit = SIZE_MAX);

 private:
  std::optional<TrainingDocument> next_line();
  TrainingDocument whole_text(size_t text_limit);

  TextFilesOptions options_;
  int file_ = -1;                       ///< being read
  std::unique_ptr<LineReader> reader_;  ///< of it, if it has lines
  int64_t documents_ = 0;               ///< of it, so far
};

}  // namespace convoke
