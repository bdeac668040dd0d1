#include "runtime/tokenizer/pre_tokenizer.h"

#include <optional>
#include <utility>

#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

/// GPT-2's pattern, which ByteLevel has built in.
constexpr const char* kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

constexpr size_t kMostSteps = 64;  // each takes a few stack frames

/// What becomes of the delimiters that a pattern matches.
enum class Behavior { kIsolated, kRemoved, kMergedWithPrevious, kMergedWithNext, kContiguous };

Behavior read_behavior(const JsonValue& json) {
  const std::string& name = json.string();
  if (name == "Isolated") return Behavior::kIsolated;
  if (name == "Removed") return Behavior::kRemoved;
  if (name == "MergedWithPrevious") return Behavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return Behavior::kMergedWithNext;
  if (name == "Contiguous") return Behavior::kContiguous;
  json.fail(
      fmt::format("behavior \"{}\" is not known (Isolated, Removed, MergedWithPrevious, "
                  "MergedWithNext and Contiguous are)",
                  name));
}

struct Part {
  size_t begin, end;
  bool is_match;
};

/// Takes matched and unmatched parts in order, all of the text, and passes on the pieces that the
/// behaviour makes of them. Empty parts count: they separate.
class Splitter {
 public:
  Splitter(std::string_view text, bool at_start, Behavior behavior, PieceSink sink)
      : text_(text), at_start_(at_start), behavior_(behavior), sink_(sink) {}

  void add(size_t begin, size_t end, bool is_match) {
    switch (behavior_) {
      case Behavior::kIsolated:
        emit(begin, end);
        return;
      case Behavior::kRemoved:
        if (!is_match) emit(begin, end);
        return;
      case Behavior::kContiguous:
        join(begin, end, is_match == previous_);
        break;
      case Behavior::kMergedWithPrevious:
        join(begin, end, is_match && !previous_);
        break;
      case Behavior::kMergedWithNext:
        parts_.push_back({begin, end, is_match});
        return;
    }
    previous_ = is_match;
  }

  void finish() {
    if (behavior_ == Behavior::kMergedWithNext) {
      merge_with_next();
    } else if (held_) {
      emit(held_->first, held_->second);
    }
  }

 private:
  void emit(size_t begin, size_t end) {
    sink_(text_.substr(begin, end - begin), at_start_ && begin == 0);
  }

  void join(size_t begin, size_t end, bool with_held) {
    if (with_held && held_) {
      held_->second = end;
      return;
    }
    if (held_) emit(held_->first, held_->second);
    held_ = {begin, end};
  }

  void merge_with_next() {
    std::vector<std::pair<size_t, size_t>> pieces;  // from right to left
    bool later_is_match = false;
    for (size_t i = parts_.size(); i-- > 0;) {
      const Part& part = parts_[i];
      if (part.is_match && !later_is_match && !pieces.empty()) {
        pieces.back().first = part.begin;
      } else {
        pieces.emplace_back(part.begin, part.end);
      }
      later_is_match = part.is_match;
    }
    for (size_t i = pieces.size(); i-- > 0;) emit(pieces[i].first, pieces[i].second);
  }

  std::string_view text_;
  bool at_start_;
  Behavior behavior_;
  PieceSink sink_;
  bool previous_ = false;
  std::optional<std::pair<size_t, size_t>> held_;
  std::vector<Part> parts_;
};

void split_by_pattern(const Pattern& pattern, std::string_view text, bool at_start,
                      Behavior behavior, bool invert, RegexScratch& scratch, PieceSink sink) {
  Splitter splitter(text, at_start, behavior, sink);
  size_t last = 0;
  pattern.for_each_match(text, scratch, [&](size_t begin, size_t end) {
    if (begin != last) splitter.add(last, begin, invert);
    splitter.add(begin, end, !invert);
    last = end;
  });
  if (last != text.size()) splitter.add(last, text.size(), invert);
  splitter.finish();
}

class PatternSplit : public SplitStep {
 public:
  PatternSplit(Pattern pattern, Behavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}
  void run(std::string_view text, bool at_start, RegexScratch& scratch,
           PieceSink sink) const override {
    split_by_pattern(pattern_, text, at_start, behavior_, invert_, scratch, sink);
  }

 private:
  Pattern pattern_;
  Behavior behavior_;
  bool invert_;
};

/// Each character for which the predicate holds is a match of its own.
class CharacterSplit : public SplitStep {
 public:
  using Predicate = bool (*)(uint32_t);
  CharacterSplit(Predicate predicate, Behavior behavior)
      : predicate_(predicate), behavior_(behavior) {}
  void run(std::string_view text, bool at_start, RegexScratch&, PieceSink sink) const override {
    Splitter splitter(text, at_start, behavior_, sink);
    size_t last = 0;
    for (size_t at = 0; at < text.size();) {
      const size_t begin = at;
      if (!predicate_(unicode::next_code_point(text, at))) continue;
      if (last < begin) splitter.add(last, begin, false);
      splitter.add(begin, at, true);
      last = at;
    }
    if (last < text.size()) splitter.add(last, text.size(), false);
    splitter.finish();
  }

 private:
  Predicate predicate_;
  Behavior behavior_;
};

/// Runs of word characters and runs of what is neither word nor space; spaces go.
class WordRuns : public SplitStep {
 public:
  void run(std::string_view text, bool at_start, RegexScratch&, PieceSink sink) const override {
    const auto kind = [](uint32_t c) {
      return unicode::is_word(c) ? 1 : unicode::is_white_space(c) ? 0 : 2;
    };
    size_t begin = 0;
    int current = 0;
    const auto emit = [&](size_t end) {
      if (current != 0) sink(text.substr(begin, end - begin), at_start && begin == 0);
    };
    for (size_t at = 0; at < text.size();) {
      const size_t start = at;
      const int next = kind(unicode::next_code_point(text, at));
      if (next == current) continue;
      emit(start);
      begin = start;
      current = next;
    }
    emit(text.size());
  }
};

enum class Prepend { kNever, kFirst, kAlways };

class Metaspace : public SplitStep {
 public:
  Metaspace(uint32_t replacement, Prepend prepend, bool split)
      : prepend_(prepend), split_(split), pattern_(Pattern::literal(encoded(replacement))) {}

  void run(std::string_view text, bool at_start, RegexScratch& scratch,
           PieceSink sink) const override {
    const std::string& mark = pattern_.literal_text();
    const bool marked = text.starts_with(' ') || text.starts_with(mark);
    std::string buffer;
    buffer.reserve(text.size() + text.size() / 2 + mark.size());
    const bool wanted = prepend_ == Prepend::kAlways || (prepend_ == Prepend::kFirst && at_start);
    if (wanted && !marked && !text.empty()) buffer.append(mark);
    for (const char c : text) {
      if (c == ' ') {
        buffer.append(mark);
      } else {
        buffer.push_back(c);
      }
    }
    if (split_) {
      split_by_pattern(pattern_, buffer, at_start, Behavior::kMergedWithNext, false, scratch, sink);
    } else {
      sink(buffer, at_start);
    }
  }

 private:
  static std::string encoded(uint32_t code_point) {
    std::string out;
    unicode::append_code_point(out, code_point);
    return out;
  }

  Prepend prepend_;
  bool split_;
  Pattern pattern_;
};

class PrefixSpace : public SplitStep {
 public:
  void run(std::string_view text, bool at_start, RegexScratch&, PieceSink sink) const override {
    if (text.empty() || text.starts_with(' ')) {
      sink(text, at_start);
      return;
    }
    std::string buffer;
    buffer.reserve(text.size() + 1);
    buffer.push_back(' ');
    buffer.append(text);
    sink(buffer, at_start);
  }
};

class BytesToCharacters : public SplitStep {
 public:
  void run(std::string_view text, bool at_start, RegexScratch&, PieceSink sink) const override {
    sink(byte_level::to_characters(text), at_start);
  }
};

std::unique_ptr<SplitStep> make_metaspace(const JsonValue& json) {
  Prepend prepend = Prepend::kAlways;
  const auto scheme = json.find("prepend_scheme");
  if (scheme) {
    const std::string& name = scheme->string();
    if (name == "never") {
      prepend = Prepend::kNever;
    } else if (name == "first") {
      prepend = Prepend::kFirst;
    } else if (name != "always") {
      scheme->fail(fmt::format("\"{}\" is not known (always, first and never are)", name));
    }
  }
  if (!json.boolean("add_prefix_space", true)) {  // the older way to say "never"
    if (scheme && prepend != Prepend::kNever) {
      json.fail("add_prefix_space is false, but prepend_scheme is not \"never\"");
    }
    prepend = Prepend::kNever;
  }
  return std::make_unique<Metaspace>(json.character("replacement"), prepend,
                                     json.boolean("split", true));
}

}  // namespace

PreTokenizer::PreTokenizer(const JsonValue& json) {
  add(json);
}

void PreTokenizer::map_bytes_to_characters() {
  if (!ends_in_bytes_) return;
  steps_.push_back(std::make_unique<BytesToCharacters>());
  ends_in_bytes_ = false;
}

void PreTokenizer::add(const JsonValue& json) {
  const std::string type = json.string("type");
  if (type == "Sequence") {
    const JsonValue list = json.at("pretokenizers");
    list.require_array();
    for (size_t i = 0; i < list.size(); ++i) add(list.at(i));
    return;
  }
  if (steps_.size() > kMostSteps) json.fail(fmt::format("more than {} steps", kMostSteps));
  map_bytes_to_characters();  // what follows ByteLevel sees characters
  if (type == "Split") {
    const Behavior behavior = read_behavior(json.at("behavior"));
    steps_.push_back(std::make_unique<PatternSplit>(read_pattern(json.at("pattern")), behavior,
                                                    json.boolean("invert", false)));
  } else if (type == "ByteLevel") {
    if (json.boolean("add_prefix_space", true)) steps_.push_back(std::make_unique<PrefixSpace>());
    if (json.boolean("use_regex", true)) {
      steps_.push_back(
          std::make_unique<PatternSplit>(Pattern::regex(kGpt2Pattern), Behavior::kIsolated, false));
    }
    ends_in_bytes_ = true;
  } else if (type == "Digits") {
    const bool individual = json.boolean("individual_digits", false);
    steps_.push_back(std::make_unique<CharacterSplit>(
        &unicode::is_numeric, individual ? Behavior::kIsolated : Behavior::kContiguous));
  } else if (type == "Punctuation") {
    const auto behavior = json.find("behavior");
    steps_.push_back(std::make_unique<CharacterSplit>(
        &unicode::is_punctuation, behavior ? read_behavior(*behavior) : Behavior::kIsolated));
  } else if (type == "Whitespace") {
    steps_.push_back(std::make_unique<WordRuns>());
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(
        std::make_unique<CharacterSplit>(&unicode::is_white_space, Behavior::kRemoved));
  } else if (type == "CharDelimiterSplit" || type == "Delimiter") {
    std::string delimiter;
    unicode::append_code_point(delimiter, json.character("delimiter"));
    steps_.push_back(
        std::make_unique<PatternSplit>(Pattern::literal(delimiter), Behavior::kRemoved, false));
  } else if (type == "Metaspace") {
    steps_.push_back(make_metaspace(json));
  } else {
    json.fail(
        fmt::format("pre_tokenizer \"{}\" is not supported (Sequence, Split, ByteLevel, "
                    "Digits, Punctuation, Whitespace, WhitespaceSplit, Metaspace and "
                    "CharDelimiterSplit are)",
                    type));
  }
}

void PreTokenizer::split(std::string_view text, bool at_start, RegexScratch& scratch,
                         FunctionRef<void(std::string_view)> word) const {
  run_from(0, text, at_start, scratch, word);
}

void PreTokenizer::run_from(size_t step, std::string_view text, bool at_start,
                            RegexScratch& scratch, FunctionRef<void(std::string_view)> word) const {
  if (text.empty()) return;
  if (step == steps_.size()) {
    word(text);
    return;
  }
  steps_[step]->run(text, at_start, scratch, [&](std::string_view piece, bool starts) {
    run_from(step + 1, piece, starts, scratch, word);
  });
}

}  // namespace convoke
