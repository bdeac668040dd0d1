#include "runtime/tokenizer/decoder.h"

#include <algorithm>
#include <functional>
#include <utility>

#include "runtime/tokenizer/byte_level.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

/// Common part of the stages: passes everything on.
class Stage : public TokenSink {
 public:
  explicit Stage(TokenSink& next) : next_(next) {}
  void text(std::string_view part) override { next_.text(part); }
  void end_token() override { next_.end_token(); }
  void finish() override { next_.finish(); }

 protected:
  TokenSink& next_;
};

class Collector : public TokenSink {
 public:
  explicit Collector(std::string& out) : out_(out) {}
  void text(std::string_view part) override { out_.append(part); }
  void end_token() override {}
  void finish() override {}

 private:
  std::string& out_;
};

class JoinWithSpaces : public Stage {
 public:
  using Stage::Stage;
  void text(std::string_view part) override {
    separate();
    next_.text(part);
  }
  void end_token() override {
    separate();  // an empty token has its space too
    next_.end_token();
    open_ = false;
    first_ = false;
  }

 private:
  void separate() {
    if (!open_ && !first_) next_.text(" ");
    open_ = true;
  }
  bool first_ = true, open_ = false;
};

/// All tokens become one.
class Fuse : public Stage {
 public:
  using Stage::Stage;
  void end_token() override {}
  void finish() override {
    next_.end_token();
    next_.finish();
  }
};

/// Byte-level tokens become bytes; a token with characters outside of the alphabet stands for its
/// own UTF-8 bytes. The bytes of all tokens are one text, in which what is not UTF-8 becomes
/// U+FFFD.
class ByteLevel : public Stage {
 public:
  using Stage::Stage;
  void text(std::string_view part) override { token_.append(part); }
  void end_token() override {
    if (!byte_level::append_bytes(bytes_, token_)) bytes_.append(token_);
    token_.clear();
    const size_t complete = unicode::complete_prefix(bytes_);
    emit(complete);
  }
  void finish() override {
    emit(bytes_.size());
    next_.end_token();
    next_.finish();
  }

 private:
  void emit(size_t count) {
    if (count == 0) return;
    next_.text(unicode::replace_invalid(std::string_view(bytes_).substr(0, count)));
    bytes_.erase(0, count);
  }
  std::string token_;
  std::string bytes_;  // not yet certain: an unfinished character
};

/// Runs of tokens <0xHH> become the bytes' text if the run is valid UTF-8 as a whole, else one
/// U+FFFD each. Hence nothing of a run is certain before it ends.
class ByteFallback : public Stage {
 public:
  using Stage::Stage;
  void text(std::string_view part) override {
    if (open_) {
      next_.text(part);
      return;
    }
    token_.append(part);
    if (token_.size() > kByteToken) open();  // too long for <0xHH>
  }
  void end_token() override {
    if (!open_) {
      const int byte = byte_of(token_);
      if (byte >= 0) {
        run_.push_back(static_cast<char>(byte));
        token_.clear();
        return;
      }
      open();
    }
    next_.end_token();
    open_ = false;
  }
  void finish() override {
    end_run();
    next_.finish();
  }

 private:
  static constexpr size_t kByteToken = 6;

  void open() {
    end_run();
    next_.text(token_);
    token_.clear();
    open_ = true;
  }

  void end_run() {
    if (run_.empty()) return;
    if (unicode::is_valid_utf8(run_)) {
      next_.text(run_);
      next_.end_token();
    } else {
      for (size_t i = 0; i < run_.size(); ++i) {
        next_.text(unicode::kReplacement);
        next_.end_token();
      }
    }
    run_.clear();
  }

  static int digit(char c) {
    if (c >= '0' && c <= '9') return c - '0';
    if (c >= 'a' && c <= 'f') return c - 'a' + 10;
    if (c >= 'A' && c <= 'F') return c - 'A' + 10;
    return -1;
  }

  static int byte_of(std::string_view token) {
    if (token.size() != kByteToken || !token.starts_with("<0x") || !token.ends_with('>')) return -1;
    const int low = digit(token[4]);
    // The reference's number parser takes a plus sign for the first digit.
    const int high = token[3] == '+' ? 0 : digit(token[3]);
    return low < 0 || high < 0 ? -1 : high * 16 + low;
  }

  std::string token_;  // start of a token that may turn out to be <0xHH>
  std::string run_;
  bool open_ = false;  // the current token is an ordinary one and passes through
};

class Metaspace : public Stage {
 public:
  Metaspace(TokenSink& next, uint32_t replacement, bool drop_in_first)
      : Stage(next), replacement_(replacement), drop_(drop_in_first) {}
  void text(std::string_view part) override {
    std::string out;
    for (size_t at = 0; at < part.size();) {
      const size_t begin = at;
      if (unicode::next_code_point(part, at) != replacement_) {
        out.append(part.substr(begin, at - begin));
      } else if (!drop_) {
        out.push_back(' ');
      }
    }
    next_.text(out);
  }
  void end_token() override {
    drop_ = false;
    next_.end_token();
  }

 private:
  uint32_t replacement_;
  bool drop_;  // in the first token
};

/// Takes up to `start` of a character from the start of each token and up to `stop` from its end.
class Strip : public Stage {
 public:
  Strip(TokenSink& next, std::string content, int64_t start, int64_t stop)
      : Stage(next), content_(std::move(content)), start_(start), stop_(stop) {
    begin_token();
  }
  void text(std::string_view part) override {
    for (size_t at = 0; at < part.size();) {
      if (left_ == 0 && stop_ == 0) {  // nothing can go any more
        next_.text(part.substr(at));
        return;
      }
      const size_t bytes = unicode::character_bytes(part[at]);
      const std::string_view character = part.substr(at, bytes);
      at += bytes;
      const bool match = character == content_;
      if (match && left_ > 0) {
        --left_;
        continue;
      }
      left_ = 0;
      if (!match) {
        release(held_);
        next_.text(character);
      } else if (held_ < stop_) {
        ++held_;
      } else {
        next_.text(content_);
      }
    }
  }
  void end_token() override {
    next_.end_token();
    begin_token();
  }

 private:
  void begin_token() {
    left_ = start_;
    held_ = 0;
  }
  void release(int64_t count) {
    for (; count > 0; --count) next_.text(content_);
    held_ = 0;
  }
  std::string content_;
  int64_t start_, stop_;
  int64_t left_ = 0;  // how many may still go at the start
  int64_t held_ = 0;  // how many at the end may have to go
};

/// Replaces a literal as it goes by: only what could be the start of a match is held back.
class ReplaceLiteral : public Stage {
 public:
  ReplaceLiteral(TokenSink& next, const std::string& from, const std::string& to)
      : Stage(next), from_(from), to_(to) {}
  void text(std::string_view part) override {
    held_.append(part);
    std::string out;
    size_t done = 0;
    for (size_t at = held_.find(from_); at != std::string::npos; at = held_.find(from_, done)) {
      out.append(held_, done, at - done);
      out.append(to_);
      done = at + from_.size();
    }
    // Where a suffix of the rest is a prefix of the literal, more text may complete it. Both are
    // whole characters, and so is the place between them.
    size_t keep = std::min(held_.size() - done, from_.size() - 1);
    while (keep > 0 && held_.compare(held_.size() - keep, keep, from_, 0, keep) != 0) --keep;
    out.append(held_, done, held_.size() - keep - done);
    held_.erase(0, held_.size() - keep);
    if (!out.empty()) next_.text(out);
  }
  void end_token() override {
    next_.text(held_);
    held_.clear();
    next_.end_token();
  }

 private:
  const std::string& from_;
  const std::string& to_;
  std::string held_;
};

/// A regular expression may look anywhere in the token: it waits for the token's end.
class ReplaceRegex : public Stage {
 public:
  ReplaceRegex(TokenSink& next, const Pattern& pattern, const std::string& to)
      : Stage(next), pattern_(pattern), to_(to) {}
  void text(std::string_view part) override { token_.append(part); }
  void end_token() override {
    std::string out;
    size_t last = 0;
    pattern_.for_each_match(token_, scratch_, [&](size_t begin, size_t end) {
      out.append(token_, last, begin - last);
      out.append(to_);
      last = end;
    });
    out.append(token_, last);
    token_.clear();
    next_.text(out);
    next_.end_token();
  }

 private:
  const Pattern& pattern_;
  const std::string& to_;
  RegexScratch scratch_;
  std::string token_;
};

/// A step whose stages need nothing but a function to make them.
class SimpleStep : public DecodeStep {
 public:
  using Make = std::function<std::unique_ptr<TokenSink>(TokenSink&)>;
  explicit SimpleStep(Make make) : make_(std::move(make)) {}
  std::unique_ptr<TokenSink> start(TokenSink& next) const override { return make_(next); }

 private:
  Make make_;
};

class ReplaceStep : public DecodeStep {
 public:
  ReplaceStep(Pattern pattern, std::string to) : pattern_(std::move(pattern)), to_(std::move(to)) {}
  std::unique_ptr<TokenSink> start(TokenSink& next) const override {
    if (pattern_.literal_text().empty()) return std::make_unique<ReplaceRegex>(next, pattern_, to_);
    return std::make_unique<ReplaceLiteral>(next, pattern_.literal_text(), to_);
  }

 private:
  Pattern pattern_;
  std::string to_;
};

template <typename S>
std::unique_ptr<DecodeStep> plain_step() {
  return std::make_unique<SimpleStep>([](TokenSink& next) { return std::make_unique<S>(next); });
}

}  // namespace

void DecodeChain::push(std::string_view token) {
  front_->text(token);
  front_->end_token();
}

Decoder::Decoder() {
  steps_.push_back(plain_step<JoinWithSpaces>());
}

Decoder::Decoder(const JsonValue& json) {
  add(json);
}

void Decoder::add(const JsonValue& json) {
  constexpr size_t kMostSteps = 64;
  if (steps_.size() > kMostSteps) json.fail(fmt::format("more than {} decoders", kMostSteps));
  const std::string type = json.string("type");
  if (type == "Sequence") {
    const JsonValue list = json.at("decoders");
    list.require_array();
    for (size_t i = 0; i < list.size(); ++i) add(list.at(i));
  } else if (type == "ByteLevel") {
    steps_.push_back(plain_step<ByteLevel>());
  } else if (type == "Fuse") {
    steps_.push_back(plain_step<Fuse>());
  } else if (type == "ByteFallback") {
    steps_.push_back(plain_step<ByteFallback>());
  } else if (type == "Metaspace") {
    const uint32_t mark = json.character("replacement");
    const auto scheme = json.find("prepend_scheme");
    const bool never =
        (scheme && scheme->string() == "never") || !json.boolean("add_prefix_space", true);
    steps_.push_back(std::make_unique<SimpleStep>([mark, never](TokenSink& next) {
      return std::make_unique<Metaspace>(next, mark, !never);
    }));
  } else if (type == "Replace") {
    steps_.push_back(
        std::make_unique<ReplaceStep>(read_pattern(json.at("pattern")), json.string("content")));
  } else if (type == "Strip") {
    std::string content;
    unicode::append_code_point(content, json.character("content"));
    const int64_t start = json.integer("start", 0, INT32_MAX);
    const int64_t stop = json.integer("stop", 0, INT32_MAX);
    steps_.push_back(std::make_unique<SimpleStep>([content, start, stop](TokenSink& next) {
      return std::make_unique<Strip>(next, content, start, stop);
    }));
  } else {
    json.fail(
        fmt::format("decoder \"{}\" is not supported (Sequence, ByteLevel, Metaspace, "
                    "Replace, ByteFallback, Fuse and Strip are)",
                    type));
  }
}

void Decoder::add_replacement(std::string from, std::string to) {
  steps_.push_back(plain_step<Fuse>());
  steps_.push_back(std::make_unique<ReplaceStep>(Pattern::literal(from), std::move(to)));
}

DecodeChain Decoder::start() const {
  DecodeChain chain;
  chain.out_ = std::make_unique<std::string>();
  chain.stages_.push_back(std::make_unique<Collector>(*chain.out_));
  for (size_t i = steps_.size(); i-- > 0;) {
    chain.stages_.push_back(steps_[i]->start(*chain.stages_.back()));
  }
  chain.front_ = chain.stages_.back().get();
  return chain;
}

}  // namespace convoke
