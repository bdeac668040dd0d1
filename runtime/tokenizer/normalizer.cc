#include "runtime/tokenizer/normalizer.h"

#include <utf8proc.h>

#include <cstdlib>
#include <vector>

#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/onig_pattern.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

bool is_ascii(std::string_view text) {
  for (const char c : text) {
    if (static_cast<uint8_t>(c) >= 0x80) return false;
  }
  return true;
}

class UnicodeForm : public Normalizer {
 public:
  explicit UnicodeForm(int options) : options_(options | UTF8PROC_STABLE) {}

  void apply(NormalizedText& text, RegexScratch&) const override {
    if (is_ascii(text.text)) return;
    std::string out;
    out.reserve(text.text.size());
    // Characters that the reference's older Unicode version does not know combine with nothing:
    // they bound the runs that utf8proc may work on.
    size_t run = 0;
    for (size_t at = 0; at < text.text.size();) {
      const size_t start = at;
      if (!unicode::is_opaque_to_normalizer(unicode::next_code_point(text.text, at))) continue;
      append(out, std::string_view(text.text).substr(run, start - run));
      out.append(text.text, start, at - start);
      run = at;
    }
    append(out, std::string_view(text.text).substr(run));
    text.text = std::move(out);
  }

 private:
  void append(std::string& out, std::string_view run) const {
    if (is_ascii(run)) {
      out.append(run);
      return;
    }
    utf8proc_uint8_t* result = nullptr;
    const auto bytes = utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(run.data()),
                                    static_cast<utf8proc_ssize_t>(run.size()), &result,
                                    static_cast<utf8proc_option_t>(options_));
    if (bytes < 0) {
      throw_error(ErrorKind::kResource, "Unicode normalisation of {} bytes: {}", run.size(),
                  utf8proc_errmsg(bytes));
    }
    const std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(result, &std::free);
    out.append(reinterpret_cast<const char*>(result), static_cast<size_t>(bytes));
  }

  int options_;
};

class Lowercase : public Normalizer {
 public:
  void apply(NormalizedText& text, RegexScratch&) const override {
    std::string out;
    out.reserve(text.text.size());
    for (size_t at = 0; at < text.text.size();) {
      unicode::append_lowercase(out, unicode::next_code_point(text.text, at));
    }
    text.text = std::move(out);
  }
};

class Replace : public Normalizer {
 public:
  Replace(Pattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  void apply(NormalizedText& text, RegexScratch& scratch) const override {
    std::string out;
    out.reserve(text.text.size());
    size_t last = 0;
    bool removed_start = false;
    pattern_.for_each_match(text.text, scratch, [&](size_t begin, size_t end) {
      if (begin == 0 && end > 0 && content_.empty()) removed_start = true;
      out.append(text.text, last, begin - last);
      out.append(content_);
      last = end;
    });
    out.append(text.text, last);
    text.text = std::move(out);
    if (removed_start) text.at_start = false;
  }

 private:
  Pattern pattern_;
  std::string content_;
};

class Prepend : public Normalizer {
 public:
  explicit Prepend(std::string text) : prefix_(std::move(text)) {}
  void apply(NormalizedText& text, RegexScratch&) const override {
    if (!text.text.empty()) text.text.insert(0, prefix_);
  }

 private:
  std::string prefix_;
};

class Strip : public Normalizer {
 public:
  Strip(bool left, bool right) : left_(left), right_(right) {}
  void apply(NormalizedText& text, RegexScratch&) const override {
    std::string& value = text.text;
    if (right_) {
      size_t end = value.size();
      while (end > 0) {
        const size_t start = unicode::previous_character(value, end);
        size_t at = start;
        if (!unicode::is_white_space(unicode::next_code_point(value, at))) break;
        end = start;
      }
      value.resize(end);
    }
    if (left_) {
      size_t begin = 0;
      for (size_t at = 0; at < value.size(); begin = at) {
        if (!unicode::is_white_space(unicode::next_code_point(value, at))) break;
      }
      if (begin > 0) text.at_start = false;
      value.erase(0, begin);
    }
  }

 private:
  bool left_, right_;
};

class ByteLevelNormalizer : public Normalizer {
 public:
  void apply(NormalizedText& text, RegexScratch&) const override {
    text.text = byte_level::to_characters(text.text);
  }
};

class SequenceNormalizer : public Normalizer {
 public:
  explicit SequenceNormalizer(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}
  void apply(NormalizedText& text, RegexScratch& scratch) const override {
    for (const auto& step : steps_) step->apply(text, scratch);
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
};

}  // namespace

Pattern read_pattern(const JsonValue& json) {
  json.require_object();
  if (const auto text = json.find("String")) return Pattern::literal(text->string());
  const auto regex = json.find("Regex");
  if (!regex) json.fail("expected {\"String\": ...} or {\"Regex\": ...}");
  try {
    return Pattern::regex(regex->string());
  } catch (const PatternError& error) {
    regex->fail(error.what());
  }
}

std::unique_ptr<Normalizer> make_normalizer(const JsonValue& json) {
  const std::string type = json.string("type");
  if (type == "NFC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE);
  if (type == "NFD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE);
  if (type == "NFKC") return std::make_unique<UnicodeForm>(UTF8PROC_COMPOSE | UTF8PROC_COMPAT);
  if (type == "NFKD") return std::make_unique<UnicodeForm>(UTF8PROC_DECOMPOSE | UTF8PROC_COMPAT);
  if (type == "Lowercase") return std::make_unique<Lowercase>();
  if (type == "ByteLevel") return std::make_unique<ByteLevelNormalizer>();
  if (type == "Prepend") return std::make_unique<Prepend>(json.string("prepend"));
  if (type == "Replace") {
    return std::make_unique<Replace>(read_pattern(json.at("pattern")), json.string("content"));
  }
  if (type == "Strip") {
    return std::make_unique<Strip>(json.at("strip_left").boolean(),
                                   json.at("strip_right").boolean());
  }
  if (type == "Sequence") {
    const JsonValue list = json.at("normalizers");
    list.require_array();
    std::vector<std::unique_ptr<Normalizer>> steps;
    for (size_t i = 0; i < list.size(); ++i) steps.push_back(make_normalizer(list.at(i)));
    return std::make_unique<SequenceNormalizer>(std::move(steps));
  }
  json.fail(
      fmt::format("normalizer \"{}\" is not supported (Sequence, NFC, NFD, NFKC, NFKD, "
                  "Lowercase, Replace, Prepend, Strip and ByteLevel are)",
                  type));
}

}  // namespace convoke
