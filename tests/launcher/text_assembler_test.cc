#include "launcher/text_assembler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "kernels/check.h"
#include "tests/support/fake_engine.h"

namespace convoke {
namespace {

using testing::FakeTokenizer;

std::optional<size_t> find(std::vector<std::string> stops, std::string_view text,
                           size_t fresh = 0) {
  return StopMatcher(std::move(stops)).find(text, fresh);
}

TEST(StopMatcher, FindsTheFirstToBeComplete) {
  EXPECT_EQ(find({"lo"}, "hello"), 3u);
  EXPECT_EQ(find({"xyz"}, "hello"), std::nullopt);
  EXPECT_EQ(find({}, "hello"), std::nullopt);
  EXPECT_EQ(find({"hello world", "lo"}, "hello world"), 3u);
  EXPECT_EQ(find({"lo", "hello"}, "hello"), 0u) << "of two that end together the longest";
  EXPECT_EQ(find({"aab"}, "aaab"), 1u);
  EXPECT_EQ(find({"a"}, "a"), 0u);
}

TEST(StopMatcher, SkipsWhatWasSearched) {
  EXPECT_EQ(find({"lo"}, "lo and lo", 2), 7u);
  EXPECT_EQ(find({"lo"}, "lo", 2), std::nullopt);
  EXPECT_EQ(find({"lo"}, "lo", 1), 0u) << "the match may begin in searched text";
}

TEST(StopMatcher, HoldsBackTheLongestBeginning) {
  const StopMatcher matcher({"abcd", "cde"});
  EXPECT_EQ(matcher.held_back(""), 0u);
  EXPECT_EQ(matcher.held_back("xx"), 0u);
  EXPECT_EQ(matcher.held_back("xa"), 1u);
  EXPECT_EQ(matcher.held_back("xabc"), 3u);
  EXPECT_EQ(matcher.held_back("xcd"), 2u);
  EXPECT_EQ(matcher.held_back("abcx"), 0u);
  EXPECT_EQ(StopMatcher({"a"}).held_back("b"), 0u);
}

TEST(StopMatcher, RefusesTheEmptyString) {
  EXPECT_THROW(StopMatcher({"a", ""}), Error);
}

RequestOutput output(std::vector<int32_t> tokens, FinishReason finish = FinishReason::kNone) {
  RequestOutput result;
  for (const int32_t token : tokens) {
    result.tokens.push_back({});
    result.tokens.back().token = token;
  }
  result.finish = finish;
  return result;
}

std::vector<int32_t> ids(const FakeTokenizer& tokenizer, std::string_view text) {
  return tokenizer.encode(text, {.add_special_tokens = false});
}

std::string join(const std::vector<TextPiece>& pieces) {
  std::string text;
  for (const TextPiece& piece : pieces) text += piece.text;
  return text;
}

TEST(TextAssembler, GivesTextAsItComes) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {});
  EXPECT_EQ(join(assembler.take(output(ids(tokenizer, "hello")))), "hello");
  EXPECT_FALSE(assembler.complete());
  EXPECT_EQ(join(assembler.take(output(ids(tokenizer, " world!"), FinishReason::kLength))),
            " world!");
  EXPECT_TRUE(assembler.complete());
  EXPECT_TRUE(assembler.closed());
  EXPECT_EQ(assembler.text(), "hello world!");
  EXPECT_EQ(assembler.finish_name(), "length");
  EXPECT_EQ(assembler.tokens().size(), 3u);
}

TEST(TextAssembler, AnEmptyOutputIsAnEnd) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{"x"}, 0});
  EXPECT_TRUE(assembler.take(output({}, FinishReason::kStop)).empty());
  EXPECT_EQ(assembler.text(), "");
  EXPECT_EQ(assembler.finish_name(), "stop");
}

TEST(TextAssembler, NeverShowsPartOfAStopString) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{"END."}, 0});
  EXPECT_EQ(join(assembler.take(output({'a', 'E', 'N'}))), "a");
  EXPECT_EQ(join(assembler.take(output({'x'}))), "ENx") << "it was something else";
  EXPECT_EQ(join(assembler.take(output({'E', 'N', 'D'}))), "");
  EXPECT_EQ(join(assembler.take(output({'.', 'z', 'z'}))), "");
  EXPECT_TRUE(assembler.complete());
  EXPECT_TRUE(assembler.wants_cancel());
  EXPECT_EQ(assembler.text(), "aENx");
  EXPECT_EQ(assembler.tokens().size(), 8u) << "up to the one that completed it";
  EXPECT_TRUE(assembler.take(output({'q'}, FinishReason::kCancelled)).empty());
  EXPECT_EQ(assembler.finish_name(), "stop") << "the cancellation was ours";
  EXPECT_FALSE(assembler.wants_cancel());
}

TEST(TextAssembler, WhatWasHeldBackComesAtTheEnd) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{"END."}, 0});
  EXPECT_EQ(join(assembler.take(output({'a', 'E', 'N'}, FinishReason::kLength))), "aEN");
  EXPECT_EQ(assembler.finish_name(), "length");
}

TEST(TextAssembler, StopStringInsideOneToken) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{" wor"}, 0});
  EXPECT_EQ(join(assembler.take(output(ids(tokenizer, "hello world")))), "hello");
  EXPECT_EQ(assembler.finish_name(), "stop");
}

TEST(TextAssembler, StopStringsWaitForTheLeastTokens) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{"ab"}, 3});
  EXPECT_EQ(join(assembler.take(output({'a', 'b', 'a', 'b'}))),
            "aba"
            "b")
      << "the third token is among the least; b alone is no stop string";
  EXPECT_FALSE(assembler.complete());
  assembler.take(output({'a', 'b'}));
  EXPECT_TRUE(assembler.complete());
  EXPECT_EQ(assembler.text(), "abab");
}

TEST(TextAssembler, HalfCharactersWait) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {});
  EXPECT_EQ(join(assembler.take(output({0xE2}))), "");
  EXPECT_EQ(join(assembler.take(output({0x9C, 0x93}))), "\xE2\x9C\x93");
  EXPECT_EQ(join(assembler.take(output({0xE2}, FinishReason::kLength))), "\xEF\xBF\xBD");
}

TEST(TextAssembler, TellsDraftedTextApart) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{"!!"}, 0});
  RequestOutput first = output({'a', 'b', '!'});
  first.tokens[0].drafted = true;
  first.tokens[2].drafted = true;
  const auto pieces = assembler.take(first);
  ASSERT_EQ(pieces.size(), 2u);
  EXPECT_TRUE(pieces[0].drafted);
  EXPECT_FALSE(pieces[1].drafted);
  const auto rest = assembler.take(output({'c'}));
  ASSERT_EQ(rest.size(), 2u);
  EXPECT_EQ(rest[0].text, "!");
  EXPECT_TRUE(rest[0].drafted) << "held back, but still a draft";
  EXPECT_FALSE(rest[1].drafted);
}

TEST(TextAssembler, GroupingOfTokensChangesNothing) {
  const FakeTokenizer tokenizer;
  std::mt19937 random(7);
  for (int round = 0; round < 500; ++round) {
    std::vector<int32_t> tokens;
    for (int i = 0; i < 24; ++i) {
      const int kind = int(random() % 3);
      tokens.push_back(kind == 0   ? int32_t('a' + random() % 2)
                       : kind == 1 ? int32_t(256 + random() % 7)
                                   : int32_t(random() % 256));
    }
    const TextOptions options{{"aba", "bb", "\n\na",
                               "\xEF\xBF\xBD"
                               "a"},
                              int(random() % 4)};
    TextAssembler whole(tokenizer, options);
    const std::string shown = join(whole.take(output(tokens, FinishReason::kLength)));
    EXPECT_EQ(shown, whole.text());

    TextAssembler parts(tokenizer, options);
    std::string streamed;
    for (size_t begin = 0; begin < tokens.size() && !parts.complete();) {
      const size_t end = std::min(tokens.size(), begin + 1 + random() % 5);
      streamed += join(
          parts.take(output({tokens.begin() + ptrdiff_t(begin), tokens.begin() + ptrdiff_t(end)})));
      begin = end;
    }
    streamed += join(parts.take(output({}, FinishReason::kLength)));
    EXPECT_EQ(streamed, whole.text());
    EXPECT_EQ(parts.text(), whole.text());
    EXPECT_EQ(parts.tokens(), whole.tokens());
    EXPECT_EQ(parts.finish(), whole.finish());
  }
}

TEST(TextAssembler, LogprobsEndWithTheText) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {{"bc"}, 0});
  RequestOutput tokens = output({'a', 'b', 'c'});
  for (OutputToken& token : tokens.tokens) {
    token.logprobs = {{token.token, -0.25f}, {token.token, -0.25f}, {'z', -2.0f}};
  }
  assembler.take(tokens);
  ASSERT_EQ(assembler.logprobs().size(), 1u);
  EXPECT_EQ(assembler.logprobs()[0].token, "a");
  EXPECT_EQ(assembler.logprobs()[0].logprob, -0.25f);
  ASSERT_EQ(assembler.logprobs()[0].top.size(), 2u);
  EXPECT_EQ(assembler.logprobs()[0].top[1].first, "z");
  EXPECT_EQ(assembler.tokens().size(), 3u);
}

TEST(TextAssembler, KeepsLogprobsOfTokensWithoutText) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {});
  RequestOutput tokens = output({'a', 0xE2}, FinishReason::kLength);
  for (OutputToken& token : tokens.tokens) token.logprobs = {{token.token, -1.0f}};
  assembler.take(tokens);
  ASSERT_EQ(assembler.logprobs().size(), 2u);
  EXPECT_EQ(assembler.logprobs()[1].token, "<0xE2>");
  EXPECT_EQ(assembler.logprobs()[1].offset, 1u);
}

TEST(TextAssembler, ErrorsAndStatsAreKept) {
  const FakeTokenizer tokenizer;
  TextAssembler assembler(tokenizer, {});
  RequestOutput failed = output({'a'}, FinishReason::kError);
  failed.error = "no room";
  failed.stats.drafts = 3;
  assembler.take(failed);
  EXPECT_EQ(assembler.finish_name(), "error");
  EXPECT_EQ(assembler.error(), "no room");
  EXPECT_EQ(assembler.stats().drafts, 3);
}

TEST(TokenName, NamesEveryToken) {
  const FakeTokenizer tokenizer;
  EXPECT_EQ(token_name(tokenizer, 'a'), "a");
  EXPECT_EQ(token_name(tokenizer, 0xE2), "<0xE2>");
  EXPECT_EQ(token_name(tokenizer, 257), " world");
  EXPECT_EQ(token_name(tokenizer, tokenizer.eos_id()), "</s>");
}

TEST(CountCharacters, CountsNotBytes) {
  EXPECT_EQ(count_characters(""), 0u);
  EXPECT_EQ(count_characters("h\xC3\xA9\xE2\x9C\x93\xF0\x9F\x98\x80"), 4u);
}

}  // namespace
}  // namespace convoke
