#include "runtime/tokenizer/regex.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <fmt/format.h>
#include <pcre2.h>

#include "kernels/check.h"
#include "runtime/tokenizer/onig_pattern.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

constexpr size_t kJitStackStart = 32 * 1024;
constexpr size_t kJitStackMost = 8 * 1024 * 1024;
constexpr uint32_t kOptions = PCRE2_UTF | PCRE2_UCP | PCRE2_MULTILINE | PCRE2_NEVER_BACKSLASH_C;

PCRE2_SPTR units(std::string_view text) {
  return reinterpret_cast<PCRE2_SPTR>(text.data());
}

std::string message(int code) {
  PCRE2_UCHAR text[256];
  pcre2_get_error_message(code, text, sizeof(text));
  return reinterpret_cast<const char*>(text);
}

template <auto Free>
struct Deleter {
  template <typename T>
  void operator()(T* pointer) const {
    Free(pointer);
  }
};
using CodePtr = std::unique_ptr<pcre2_code, Deleter<pcre2_code_free>>;
using CompileContextPtr =
    std::unique_ptr<pcre2_compile_context, Deleter<pcre2_compile_context_free>>;

CodePtr compile(std::string_view pattern, int& error, size_t& offset) {
  // The newline convention is a build option of PCRE2; the reference's is LF.
  const CompileContextPtr context(pcre2_compile_context_create(nullptr));
  if (!context) throw_error(ErrorKind::kResource, "out of memory for a pattern");
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  pcre2_set_bsr(context.get(), PCRE2_BSR_UNICODE);
  return CodePtr(
      pcre2_compile(units(pattern), pattern.size(), kOptions, &error, &offset, context.get()));
}

}  // namespace

struct RegexScratch::Handles {
  std::unique_ptr<pcre2_match_data, Deleter<pcre2_match_data_free>> data;
  std::unique_ptr<pcre2_match_context, Deleter<pcre2_match_context_free>> context;
  std::unique_ptr<pcre2_jit_stack, Deleter<pcre2_jit_stack_free>> stack;
};

RegexScratch::RegexScratch() : handles_(std::make_unique<Handles>()) {
  handles_->data.reset(pcre2_match_data_create(1, nullptr));
  handles_->context.reset(pcre2_match_context_create(nullptr));
  handles_->stack.reset(pcre2_jit_stack_create(kJitStackStart, kJitStackMost, nullptr));
  if (!handles_->data || !handles_->context) {
    throw_error(ErrorKind::kResource, "out of memory for matching a pattern");
  }
  if (handles_->stack) {  // null where PCRE2 has no JIT
    pcre2_jit_stack_assign(handles_->context.get(), nullptr, handles_->stack.get());
  }
}
RegexScratch::~RegexScratch() = default;
RegexScratch::RegexScratch(RegexScratch&&) noexcept = default;

struct Pattern::Code {
  CodePtr code;
  bool jit = false;
};

Pattern::Pattern() = default;
Pattern::~Pattern() = default;
Pattern::Pattern(Pattern&&) noexcept = default;
Pattern& Pattern::operator=(Pattern&&) noexcept = default;

bool pcre2_knows_script(const std::string& name) {
  int error = 0;
  size_t offset = 0;
  return compile(fmt::format("\\p{{sc:{}}}", name), error, offset) != nullptr;
}

Pattern Pattern::regex(std::string_view pattern) {
  const std::string translated = onig_to_pcre2(pattern);
  Pattern result;
  result.source_ = pattern;
  result.code_ = std::make_unique<Code>();
  int error = 0;
  size_t offset = 0;
  result.code_->code = compile(translated, error, offset);
  if (!result.code_->code) {
    throw PatternError(fmt::format("pattern not supported: {} (\"{}\")", message(error), pattern));
  }
  result.code_->jit = pcre2_jit_compile(result.code_->code.get(), PCRE2_JIT_COMPLETE) == 0;
  return result;
}

Pattern Pattern::literal(std::string_view text) {
  if (text.empty()) return regex("");  // matches between any two characters
  Pattern result;
  result.literal_ = text;
  return result;
}

void Pattern::for_each_match(std::string_view text, RegexScratch& scratch,
                             FunctionRef<void(size_t, size_t)> match) const {
  if (text.empty()) return;  // not even an empty match, as in the reference
  if (!code_) {
    for (size_t at = text.find(literal_); at != std::string_view::npos;
         at = text.find(literal_, at + literal_.size())) {
      match(at, at + literal_.size());
    }
    return;
  }
  std::string stand_ins;
  if (unicode::has_new_characters(text)) {
    stand_ins = unicode::with_stand_ins(text);
    text = stand_ins;
  }
  auto& handles = scratch.handles();
  const auto* vector = pcre2_get_ovector_pointer(handles.data.get());
  size_t from = 0;
  size_t last_end = static_cast<size_t>(-1);
  while (from <= text.size()) {
    // The text is valid UTF-8, which both functions rely on.
    const int count =
        code_->jit ? pcre2_jit_match(code_->code.get(), units(text), text.size(), from, 0,
                                     handles.data.get(), handles.context.get())
                   : pcre2_match(code_->code.get(), units(text), text.size(), from,
                                 PCRE2_NO_UTF_CHECK, handles.data.get(), handles.context.get());
    if (count == PCRE2_ERROR_NOMATCH) return;
    if (count < 0) {
      throw_error(ErrorKind::kModel, "tokenizer pattern \"{}\" on a text of {} bytes: {}", source_,
                  text.size(), message(count));
    }
    const size_t begin = vector[0], end = vector[1];
    if (begin == end && end == last_end) {  // would not advance: look again one character on
      if (from >= text.size()) return;
      from += unicode::character_bytes(text[from]);
      continue;
    }
    from = last_end = end;
    match(begin, end);
  }
}

}  // namespace convoke
