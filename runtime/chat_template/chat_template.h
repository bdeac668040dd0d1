// Messages to a prompt, by the chat template of a model (Tokenizer::chat_template).
#pragma once

#include <cstdint>
#include <ctime>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <string_view>

namespace convoke {

namespace jinja {
struct Program;
}

/// The variables of a template.
struct ChatInput {
  nlohmann::ordered_json messages;  ///< an array of objects, as templates expect: role, content, ..
  bool add_generation_prompt = false;
  std::string bos_token;  ///< "": the model has none, and the variable is undefined
  std::string eos_token;
  nlohmann::ordered_json tools;                   ///< an array of JSON schemas; null: None
  nlohmann::ordered_json extra;                   ///< an object of further variables, or null
  std::optional<std::time_t> now = std::nullopt;  ///< of strftime_now; absent: when it renders
};

/// A chat template in the language that transformers gives it: Jinja2's (3.1) in its immutable
/// sandbox, with trim_blocks, lstrip_blocks and loop controls, transformers' tojson,
/// raise_exception, strftime_now and {% generation %}. Not supported are inheritance, includes,
/// imports, recursive loops, the filters filesizeformat, forceescape, groupby, pprint, random,
/// striptags, urlencode, urlize, wordwrap and xmlattr, integers beyond 64 bits, and the globals
/// cycler, joiner and lipsum.
///
/// Two more differences that sane templates do not show: filters look at all items at once where
/// Jinja2's are lazy, so that they fault on items that nobody would have asked for; and a variable
/// of the caller that a scope assigns further down is there before, where Jinja2's compiler may
/// have made it undefined.
///
/// Messages are rendered as they are; transformers drops message keys whose value is null before.
class ChatTemplate {
 public:
  /// Work that one rendering may take, plus some for each byte of its variables: a few seconds, a
  /// few hundred MiB at worst. See jinja::Heap.
  static constexpr uint64_t kWorkLimit = uint64_t{1} << 28;

  /// `name` stands for the template in errors. Throws Error(kModel) with name and line for syntax
  /// errors, unknown tags, filters and tests, more than 256 KiB, and too deep nesting.
  static ChatTemplate parse(std::string_view source, const std::string& name);

  /// Thread-safe. What the template raises through raise_exception becomes Error(kUsage) with that
  /// text and nothing else. Anything else that goes wrong names template and line: Error(kUsage)
  /// where the messages can be the cause (something is undefined or of another type than the
  /// template expects; variables larger than 16 MiB), Error(kModel) where only the template can
  /// (filters that do not exist in a branch that is reached, more work than `work_limit`, output
  /// of more than 64 MiB).
  std::string render(const ChatInput& input, uint64_t work_limit = kWorkLimit) const;

 private:
  explicit ChatTemplate(std::shared_ptr<const jinja::Program> program);
  std::shared_ptr<const jinja::Program> program_;
};

}  // namespace convoke
