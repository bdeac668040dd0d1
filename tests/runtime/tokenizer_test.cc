// Tokenizer: errors, limits, threads, and what no golden file shows.
#include "runtime/tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "kernels/check.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

using nlohmann::json;
using testing::HasSubstr;

const std::string kDemo = CONVOKE_SOURCE_DIR "/demo/model";

/// Letters a to d and some merges, no steps at all.
json small() {
  return json::parse(R"({"version": "1.0", "added_tokens": [], "model": {"type": "BPE",
    "vocab": {"a": 0, "b": 1, "c": 2, "d": 3, "ab": 4, "abc": 5, "aa": 6, "bb": 7, "aab": 8,
              "abab": 9, "cd": 10},
    "merges": ["a b", ["ab", "c"], "a a", "b b", ["a", "ab"], "ab ab", ["c", "d"]]}})");
}

std::string error_of(const json& tokenizer, const std::string& config = "{}") {
  try {
    (void)Tokenizer::parse(tokenizer.dump(), config);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    return error.what();
  }
  return "no error";
}

TEST(Tokenizer, ErrorsNameFileAndKey) {
  const auto with = [](const char* pointer, const char* value) {
    json changed = small();
    changed[json::json_pointer(pointer)] = json::parse(value);
    return error_of(changed);
  };
  EXPECT_THAT(with("/model/type", R"("Unigram")"), HasSubstr("tokenizer.json: model.type: model"));
  EXPECT_THAT(with("/model/vocab", "[]"), HasSubstr("model.vocab: expected an object"));
  EXPECT_THAT(with("/model/vocab/a", "1"), HasSubstr("id 1 is given twice"));
  EXPECT_THAT(with("/model/vocab/a", "-1"), HasSubstr("id -1 is not between"));
  EXPECT_THAT(with("/model/vocab/a", "2000000000"), HasSubstr("id 2000000000 is not between"));
  EXPECT_THAT(with("/model/vocab/a", "18446744073709551615"), HasSubstr("is not between"));
  EXPECT_THAT(with("/model/vocab/a", "1.5"), HasSubstr("no integer id"));
  EXPECT_THAT(with("/model/merges/0", R"("a")"), HasSubstr("model.merges[0]: expected \"left"));
  EXPECT_THAT(with("/model/merges/0", R"(["a"])"), HasSubstr("merges[0]: expected two tokens"));
  EXPECT_THAT(with("/model/merges/0", R"("a z")"), HasSubstr("\"z\" is not in the vocabulary"));
  EXPECT_THAT(with("/model/merges/0", R"("a d")"), HasSubstr("\"ad\" is not in the vocabulary"));
  EXPECT_THAT(with("/model/merges/0", R"(["", "a"])"), HasSubstr("an empty token"));
  EXPECT_THAT(with("/model/dropout", "0.1"), HasSubstr("model.dropout: is not supported"));
  EXPECT_THAT(with("/version", R"("2.0")"), HasSubstr("version: \"2.0\" is not supported"));
  EXPECT_THAT(with("/normalizer", R"({"type": "Nmt"})"), HasSubstr("normalizer \"Nmt\" is not"));
  EXPECT_THAT(with("/normalizer", R"({"type": "Sequence", "normalizers": [{"type": 3}]})"),
              HasSubstr("normalizer.normalizers[0].type: expected a string"));
  EXPECT_THAT(with("/pre_tokenizer", R"({"type": "Bert"})"), HasSubstr("pre_tokenizer \"Bert\""));
  EXPECT_THAT(with("/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a"},
                                         "behavior": "Isolated", "invert": false})"),
              HasSubstr("pre_tokenizer.pattern.Regex: pattern not supported"));
  EXPECT_THAT(with("/pre_tokenizer", R"({"type": "Split", "pattern": {"Regex": "(a)\\1"},
                                         "behavior": "Isolated", "invert": false})"),
              HasSubstr("\\1"));
  EXPECT_THAT(with("/decoder", R"({"type": "CTC"})"), HasSubstr("decoder \"CTC\" is not"));
  EXPECT_THAT(with("/decoder", R"({"type": "Strip", "content": "xy", "start": 1, "stop": 0})"),
              HasSubstr("decoder.content: expected one character"));
  EXPECT_THAT(with("/post_processor", R"({"type": "X"})"),
              HasSubstr("post_processor \"X\" is not"));
  EXPECT_THAT(with("/post_processor",
                   R"({"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "s"}}],
                       "special_tokens": {"s": {"ids": [99]}}})"),
              HasSubstr("special_tokens.s.ids[0]: 99 is not between 0 and 10"));
  EXPECT_THAT(with("/added_tokens", R"([{"id": 12, "content": "<s>"}])"),
              HasSubstr("added_tokens[0]: \"<s>\" has id 12 here, but 11"));
  EXPECT_THAT(with("/added_tokens", R"([{"id": 99999999999, "content": "<s>"}])"),
              HasSubstr("added_tokens[0].id: 99999999999 is not between"));
  EXPECT_THAT(with("/added_tokens", R"([{"content": "<s>"}])"), HasSubstr("\"id\" is missing"));
  EXPECT_EQ(with("/added_tokens", R"([{"id": 11, "content": "<s>"}])"), "no error");
}

TEST(Tokenizer, RefusesHostileFiles) {
  EXPECT_THAT(error_of(json::array()), HasSubstr("expected an object"));
  const std::string deep(100000, '[');
  EXPECT_THROW((void)Tokenizer::parse(deep), Error);
  EXPECT_THROW((void)Tokenizer::parse("{\"model\": {}"), Error);
  EXPECT_THROW((void)Tokenizer::parse(""), Error);
  EXPECT_THROW((void)Tokenizer::parse("{\"version\": \"\xff\"}"), Error);
  EXPECT_THROW((void)Tokenizer::load("/nonexistent"), Error);
  json many = small();
  many["pre_tokenizer"] = {{"type", "Sequence"}, {"pretokenizers", json::array()}};
  for (int i = 0; i < 5000; ++i)
    many["pre_tokenizer"]["pretokenizers"].push_back({{"type", "WhitespaceSplit"}});
  EXPECT_THAT(error_of(many), HasSubstr("more than 64 steps"));
}

/// The definition of BPE: the merge of lowest rank, leftmost first, until none applies.
std::vector<int32_t> by_definition(const json& file, const std::string& word) {
  std::map<std::pair<std::string, std::string>, size_t> ranks;
  for (const json& merge : file["model"]["merges"]) {
    std::string left, right;
    if (merge.is_array()) {
      left = merge[0], right = merge[1];
    } else {
      const std::string text = merge;
      left = text.substr(0, text.find(' ')), right = text.substr(text.find(' ') + 1);
    }
    ranks.emplace(std::pair(left, right), ranks.size());
  }
  std::vector<std::string> parts;
  for (const char c : word) parts.emplace_back(1, c);
  for (;;) {
    size_t best = std::numeric_limits<size_t>::max(), at = 0;
    for (size_t i = 0; i + 1 < parts.size(); ++i) {
      const auto it = ranks.find({parts[i], parts[i + 1]});
      if (it != ranks.end() && it->second < best) best = it->second, at = i;
    }
    if (best == std::numeric_limits<size_t>::max()) break;
    parts[at] += parts[at + 1];
    parts.erase(parts.begin() + static_cast<std::ptrdiff_t>(at) + 1);
  }
  std::vector<int32_t> ids;
  for (const auto& part : parts) ids.push_back(file["model"]["vocab"][part]);
  return ids;
}

TEST(Tokenizer, MergesWordsOfAnyLengthByDefinition) {
  const json file = small();
  const auto tokenizer = Tokenizer::parse(file.dump());
  std::mt19937 random(3);
  for (size_t length = 1; length < 300; length += 1 + length / 7) {
    for (int round = 0; round < 20; ++round) {
      std::string word;
      for (size_t i = 0; i < length; ++i) word.push_back("aaabbcd"[random() % 7]);
      EXPECT_EQ(tokenizer->encode(word), by_definition(file, word)) << word;
      EXPECT_EQ(tokenizer->encode(word), by_definition(file, word)) << "cached: " << word;
    }
  }
}

TEST(Tokenizer, VeryLongWordsAreNotQuadratic) {
  const auto demo = Tokenizer::load(kDemo);
  const auto spm = Tokenizer::load(CONVOKE_SOURCE_DIR "/tests/golden/tokenizers/llama2_metaspace");
  for (const char c : {' ', 'a', '\n', '=', '7'}) {
    const std::string text(100000, c);
    const auto ids = demo->encode(text, {.add_special_tokens = false});
    EXPECT_TRUE(demo->decode(ids) == text);
    EXPECT_TRUE(spm->decode(spm->encode(text)) == (c == ' ' ? text.substr(1) : text));
  }
}

TEST(Tokenizer, EncodesTheSameFromManyThreads) {
  const auto tokenizer = Tokenizer::load(kDemo);
  const auto text_of = [](int i) {
    return fmt::format("def f{}(x):\n    return x + {} # caf\u00e9 {}\n", i % 50, i, i * 7919);
  };
  std::vector<std::vector<int32_t>> alone;
  for (int i = 0; i < 200; ++i) alone.push_back(tokenizer->encode(text_of(i)));
  std::vector<std::thread> threads;
  std::vector<int> wrong(4);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 200; ++i) {
        const auto ids = tokenizer->encode(text_of(i));
        wrong[t] += ids != alone[static_cast<size_t>(i)];
        wrong[t] += tokenizer->decode(ids) != text_of(i);
      }
    });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_EQ(wrong, std::vector<int>(4));
}

TEST(Tokenizer, ReadsTheConfig) {
  const std::string file = small().dump();
  const auto tokenizer =
      Tokenizer::parse(file, R"({"bos_token": {"content": "a"}, "eos_token": "<e>", "chat_template":
               [{"name": "tool_use", "template": "x"}, {"name": "default", "template": "y"}]})");
  EXPECT_EQ(tokenizer->bos(), 0);
  EXPECT_TRUE(tokenizer->is_special(0));
  EXPECT_EQ(tokenizer->eos(), 11);  // not in the vocabulary: added, as in the reference
  EXPECT_EQ(tokenizer->vocabulary(), 12);
  EXPECT_EQ(tokenizer->encode("b<e>").back(), 11);
  EXPECT_EQ(tokenizer->chat_template(), "y");
  EXPECT_EQ(Tokenizer::parse(file)->chat_template(), "");
  EXPECT_EQ(Tokenizer::parse(file, R"({"chat_template": "z"})")->chat_template(), "z");
  EXPECT_EQ(Tokenizer::parse(file)->bos(), std::nullopt);
  EXPECT_THAT(error_of(small(), R"({"bos_token": 3})"), HasSubstr("tokenizer_config.json: bos_"));
}

TEST(Tokenizer, PassesOverUnknownIds) {
  const auto tokenizer = Tokenizer::load(kDemo);
  const std::vector<int32_t> ids = {-1, 64, 1 << 30, 65};
  EXPECT_EQ(tokenizer->decode(ids), tokenizer->decode(std::vector<int32_t>{64, 65}));
  EXPECT_EQ(tokenizer->id_to_token(-1), "");
  EXPECT_FALSE(tokenizer->is_special(1 << 30));
}

TEST(Tokenizer, RepairsInvalidUtf8) {
  EXPECT_EQ(unicode::replace_invalid("a\xff\xe4\xbd"), "a\uFFFD\uFFFD");
  EXPECT_EQ(unicode::replace_invalid("\xed\xa0\x80"), "\uFFFD\uFFFD\uFFFD");
  EXPECT_EQ(unicode::complete_prefix("a\xe4\xbd"), 1u);
  EXPECT_EQ(unicode::complete_prefix("a\xe4\xbd\xa0"), 4u);
  EXPECT_EQ(unicode::complete_prefix("a\xff"), 2u);
  EXPECT_EQ(unicode::complete_prefix("\xf0\x9f\x98"), 0u);
}

}  // namespace
}  // namespace convoke
