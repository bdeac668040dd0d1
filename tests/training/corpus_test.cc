#include "training/data/corpus.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>
#include <numeric>
#include <set>

#include "kernels/check.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using testing::FakeTokenizer;
using ::testing::HasSubstr;
using testing::TempFolder;

using Sequence = std::vector<int32_t>;

/// Letters are tokens of their own: no word of the vocabulary is in the way.
const FakeTokenizer& tokenizer() {
  static const FakeTokenizer tokens(std::vector<std::string>{"<|u|>"});
  return tokens;
}
const int32_t kBos = tokenizer().bos_id();

std::vector<Sequence> list(const TokenCorpus& corpus) {
  std::vector<Sequence> sequences;
  for (int64_t i = 0; i < corpus.size(); ++i) {
    const auto tokens = corpus.sequence(i);
    sequences.emplace_back(tokens.begin(), tokens.end());
  }
  return sequences;
}

Sequence letters(const std::string& text, bool bos = true) {
  Sequence tokens;
  if (bos) tokens.push_back(kBos);
  tokens.insert(tokens.end(), text.begin(), text.end());
  return tokens;
}

std::string text_line(const std::string& text) {
  return nlohmann::json{{"text", text}}.dump() + "\n";
}

/// `documents` texts of different lengths, each with a beginning and an alphabet of its own.
std::string many_lines(int documents) {
  std::string lines;
  for (int d = 0; d < documents; ++d) {
    lines += text_line(fmt::format("{:06}", d) + std::string(size_t(d * 37 % 150), 'x'));
  }
  return lines;
}

struct Data {
  TempFolder folder;
  CorpusOptions options{.sequence_length = 16, .min_length = 4};
  RenderChat chat = [](const nlohmann::ordered_json& messages) {
    return "<s>" + messages[0]["content"].get<std::string>() + "</s>";
  };

  explicit Data(const std::string& content = "", const std::string& name = "a.jsonl") {
    if (!content.empty()) add(content, name);
    options.held_out_share = 0;
  }
  void add(const std::string& content, const std::string& name) {
    options.files.push_back(folder.write(name, content));
  }
  CorpusSplit load(int vocabulary = 300) const {
    return load_corpus(options, tokenizer(), vocabulary, chat);
  }
  std::vector<Sequence> sequences() const { return list(load().train); }
  std::string complaint(ErrorKind kind = ErrorKind::kUsage, int vocabulary = 300) const {
    try {
      load(vocabulary);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind);
      return error.what();
    }
    ADD_FAILURE() << "nothing was wrong";
    return "";
  }
};

/// A real tokenizer that finds special tokens in text; FakeTokenizer does not.
std::unique_ptr<Tokenizer> demo_tokenizer() {
  return Tokenizer::load(std::filesystem::path(CONVOKE_SOURCE_DIR) / "demo/model");
}

TEST(Corpus, WindowsOfTextBeginWithBos) {
  Data data(text_line("abcdefghij") + text_line("klmno"));
  data.options.sequence_length = 6;
  EXPECT_THAT(data.sequences(), ElementsAre(letters("abcde"), letters("fghij"), letters("klmno")));
}

TEST(Corpus, ShortWindowsAreLeftOut) {
  Data data(text_line("abcdefgh") + text_line("kl") + text_line("") + text_line("mno"));
  data.options.sequence_length = 6;
  const auto split = data.load();
  EXPECT_THAT(list(split.train), ElementsAre(letters("abcde"), letters("fgh"), letters("mno")));
  EXPECT_EQ(split.documents, 2);
  EXPECT_EQ(split.short_documents, 2);
  data.options.min_length = 5;
  EXPECT_THAT(data.sequences(), ElementsAre(letters("abcde")));
}

TEST(Corpus, TokensAreCutAsTheyAre) {
  const std::string bos = std::to_string(kBos);
  Data data("{\"tokens\": [" + bos + ",1,2,3,4,5,6,7,8,9]}\n{\"tokens\": [9,8,7,6]}");
  data.options.sequence_length = 4;
  EXPECT_THAT(data.sequences(),
              ElementsAre(Sequence{kBos, 1, 2, 3}, Sequence{4, 5, 6, 7}, Sequence{9, 8, 7, 6}));
}

TEST(Corpus, PlainFileIsOneDocument) {
  Data data("abc\ndef\n", "a.txt");
  data.add("ghijk", "b.md");
  EXPECT_THAT(data.sequences(), ElementsAre(letters("abc\ndef\n"), letters("ghijk")));
}

TEST(Corpus, ShortestPossibleWindows) {
  Data data(text_line("abc"));
  data.options.sequence_length = data.options.min_length = 2;
  EXPECT_THAT(data.sequences(), ElementsAre(letters("a"), letters("b"), letters("c")));
}

TEST(Corpus, ChatTextSpellsItsSpecialTokens) {
  const auto real = demo_tokenizer();
  const TempFolder folder;
  CorpusOptions options{.sequence_length = 6, .min_length = 2, .held_out_share = 0};
  options.files = {folder.write(
      "a.jsonl", R"({"messages": [{"role": "user", "content": "one two three four five six"}]})")};
  const RenderChat chat = [](const nlohmann::ordered_json& messages) {
    return "<|begin_of_text|><|user|>\n" + messages[0]["content"].get<std::string>() + "<|end|>\n";
  };
  const auto split = load_corpus(options, *real, real->vocabulary(), chat);
  const std::string text = "<|begin_of_text|><|user|>\none two three four five six<|end|>\n";
  const Sequence whole = real->encode(text, {.add_special_tokens = false});
  ASSERT_EQ(whole[0], *real->bos());
  ASSERT_EQ(whole[1], *real->token_to_id("<|user|>"));
  Sequence joined{*real->bos()};
  for (const Sequence& window : list(split.train)) {
    EXPECT_EQ(window[0], *real->bos());
    EXPECT_LE(window.size(), 6u);
    joined.insert(joined.end(), window.begin() + 1, window.end());
  }
  EXPECT_GT(split.train.size(), 1);
  EXPECT_EQ(joined, whole);
  EXPECT_EQ(std::ranges::count(whole, *real->token_to_id("<|end|>")), 1);
}

TEST(Corpus, ChatWithoutBosGetsNone) {
  Data data(R"({"messages": [{"role": "u", "content": "abcdefghijklmnop"}]})");
  data.chat = [](const nlohmann::ordered_json& messages) {
    return messages[0]["content"].get<std::string>();
  };
  data.options.sequence_length = 8;
  EXPECT_THAT(data.sequences(),
              ElementsAre(letters("abcdefgh", false), letters("ijklmnop", false)));
}

TEST(Corpus, RealTextBecomesWhatPromptsAre) {
  const auto real = demo_tokenizer();
  const TempFolder folder;
  std::string text = "def add(a, b):\n    return a + b\n";
  for (int i = 0; i < 5; ++i) text += text;
  CorpusOptions options{.sequence_length = 40, .held_out_share = 0};
  options.files = {folder.write("a.py", text)};
  const auto split = load_corpus(options, *real, real->vocabulary(), nullptr);
  const auto windows = list(split.train);
  const Sequence first = real->encode(text);
  EXPECT_TRUE(std::equal(windows[0].begin(), windows[0].end(), first.begin()));
  std::string decoded;
  for (const Sequence& window : windows) {
    EXPECT_EQ(window[0], *real->bos());
    decoded += real->decode(window);
  }
  EXPECT_EQ(decoded, text.substr(0, decoded.size()));
  EXPECT_GT(decoded.size(), text.size() - 100);
}

TEST(Corpus, MaxTokensEndsReading) {
  Data data(text_line("abcdefghij") + text_line("klmnopqrst") + text_line("uvwxyz"));
  data.options.sequence_length = 6;
  for (const auto& [limit, expected] : std::vector<std::pair<int64_t, std::vector<Sequence>>>{
           {4, {letters("abc")}},
           {6, {letters("abcde")}},
           {9, {letters("abcde")}},
           {10, {letters("abcde"), letters("fgh")}},
           {12, {letters("abcde"), letters("fghij")}},
           {17, {letters("abcde"), letters("fghij"), letters("klmn")}},
           {24, {letters("abcde"), letters("fghij"), letters("klmno"), letters("pqrst")}}}) {
    data.options.max_tokens = limit;
    const auto split = data.load();
    EXPECT_EQ(list(split.train), expected) << limit;
    EXPECT_LE(int64_t(split.train.tokens.size()), limit);
    EXPECT_TRUE(split.limited);
  }
  data.options.max_tokens = 1000;
  EXPECT_FALSE(data.load().limited);
  data.options.max_tokens = 3;
  EXPECT_THAT(data.complaint(), HasSubstr("--max-data-tokens"));
}

TEST(Corpus, MaxTokensLeavesTheRestUnread) {
  Data data(many_lines(2000) + "not JSON\n");
  EXPECT_THAT(data.complaint(), HasSubstr("a.jsonl:2001: not JSON"));
  data.options.max_tokens = 500;
  EXPECT_EQ(data.load().train.tokens.size(), 500u);

  Data text(std::string(3'000'000, 'a'), "a.txt");
  text.options.max_tokens = 1000;
  EXPECT_EQ(text.load().train.tokens.size(), 1000u);
}

TEST(Corpus, ThreadsDoNotChangeIt) {
  // More than one batch of texts.
  std::string lines = many_lines(300);
  for (int i = 0; i < 20; ++i) lines += text_line(std::string(1'000'000, char('a' + i)));
  Data data(lines);
  data.add(many_lines(50), "b.jsonl");
  data.options.sequence_length = 500;
  data.options.held_out_share = 0.1;
  data.options.threads = 1;
  const auto one = data.load();
  EXPECT_GT(one.held_out.size(), 0);
  for (const int threads : {2, 7, 0}) {
    data.options.threads = threads;
    const auto other = data.load();
    EXPECT_EQ(other.train.tokens, one.train.tokens);
    EXPECT_EQ(other.train.begins, one.train.begins);
    EXPECT_EQ(other.held_out.tokens, one.held_out.tokens);
    EXPECT_EQ(other.digest(), one.digest());
  }
}

/// The documents whose windows are in `corpus`, by the six digits of many_lines; every window of
/// one document has the same fate, so windows without digits follow their first one.
std::set<int> documents_of(const TokenCorpus& corpus) {
  std::set<int> documents;
  for (const Sequence& window : list(corpus)) {
    if (window.size() < 7 || !std::isdigit(window[1])) continue;
    documents.insert(std::stoi(std::string(window.begin() + 1, window.begin() + 7)));
  }
  return documents;
}

TEST(Corpus, HoldsOutWholeDocuments) {
  Data data(many_lines(1000));
  data.options.held_out_share = 0;
  const auto whole = data.load();
  EXPECT_EQ(whole.held_out.size(), 0);
  EXPECT_EQ(whole.documents, 1000);
  std::set<std::set<int>> choices;
  for (const uint64_t seed : {0, 1, 2}) {
    data.options.seed = seed;
    data.options.held_out_share = 0.1;
    const auto split = data.load();
    const auto train = documents_of(split.train), held_out = documents_of(split.held_out);
    EXPECT_EQ(train.size() + held_out.size(), 1000u);
    EXPECT_EQ(int64_t(held_out.size()), split.held_out_documents);
    EXPECT_NEAR(double(held_out.size()), 100, 40);
    std::set<int> both;
    std::ranges::set_intersection(train, held_out, std::inserter(both, both.end()));
    EXPECT_TRUE(both.empty());
    choices.insert(held_out);
    // Nothing is lost.
    auto all = list(split.train);
    for (const Sequence& window : list(split.held_out)) all.push_back(window);
    auto expected = list(whole.train);
    std::ranges::sort(all);
    std::ranges::sort(expected);
    EXPECT_EQ(all, expected);
  }
  EXPECT_EQ(choices.size(), 3u);
}

TEST(Corpus, WindowsFollowTheirDocument) {
  // Each document has an alphabet of its own, so windows tell where they come from.
  std::string lines;
  for (int d = 0; d < 26; ++d) lines += text_line(std::string(size_t(40 + d), char('a' + d)));
  Data data(lines);
  data.options.held_out_share = 0.3;
  const auto split = data.load();
  std::set<int32_t> train, held_out;
  for (const Sequence& window : list(split.train)) train.insert(window[1]);
  for (const Sequence& window : list(split.held_out)) held_out.insert(window[1]);
  EXPECT_EQ(train.size() + held_out.size(), 26u);
  EXPECT_EQ(int64_t(held_out.size()), split.held_out_documents);
  EXPECT_GT(held_out.size(), 1u);
  // In both parts, in the order of the files.
  EXPECT_TRUE(
      std::ranges::is_sorted(list(split.train), {}, [](const Sequence& w) { return w[1]; }));
}

TEST(Corpus, AtLeastOneDocumentOnEitherSide) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    for (const double share : {0.001, 0.5}) {
      Data data(text_line("abcdefgh") + text_line("ijklmnop"));
      data.options.seed = seed;
      data.options.held_out_share = share;
      const auto split = data.load();
      EXPECT_EQ(split.train.size(), 1);
      EXPECT_EQ(split.held_out.size(), 1);
      EXPECT_EQ(split.held_out_documents, 1);
    }
  }
}

TEST(Corpus, TheBulkIsNeverHeldOut) {
  for (uint64_t seed = 0; seed < 30; ++seed) {
    Data data(text_line("abcdefgh") + text_line(std::string(400, 'x')) + text_line("ijklmnop"));
    data.options.seed = seed;
    data.options.held_out_share = 0.5;
    const auto split = data.load();
    EXPECT_GT(split.train.size(), 25);
    EXPECT_THAT(split.held_out.size(), ::testing::AnyOf(1, 2));
  }
}

TEST(Corpus, TheEndOfAnOnlyDocumentIsHeldOut) {
  std::string text;
  for (int i = 0; i < 40; ++i) text += fmt::format("{:015}", i);
  Data data(text, "a.txt");
  data.options.held_out_share = 0.05;
  auto split = data.load();
  EXPECT_EQ(split.train.size(), 38);
  EXPECT_THAT(list(split.held_out),
              ElementsAre(letters(fmt::format("{:015}", 38)), letters(fmt::format("{:015}", 39))));
  EXPECT_EQ(split.held_out_documents, 0);
  data.options.held_out_share = 0.001;
  EXPECT_EQ(data.load().held_out.size(), 1);
  data.options.held_out_share = 0;
  EXPECT_EQ(data.load().held_out.size(), 0);
  Data small(text_line("abcdef"));
  small.options.held_out_share = 0.5;
  EXPECT_EQ(small.load().train.size(), 1);
  EXPECT_EQ(small.load().held_out.size(), 0);
}

TEST(Corpus, DigestIsOfEverything) {
  Data data(many_lines(50));
  data.options.held_out_share = 0.2;
  std::set<uint64_t> digests{data.load().digest()};
  EXPECT_TRUE(digests.contains(data.load().digest()));
  const auto expect_other = [&](const char* what) {
    EXPECT_TRUE(digests.insert(data.load().digest()).second) << what;
  };
  data.options.seed = 1;
  expect_other("seed");
  data.options.sequence_length = 15;
  expect_other("sequence length");
  data.options.max_tokens = 500;
  expect_other("limit");

  TokenCorpus a, b, c;
  a.add(Sequence{1, 2});
  a.add(Sequence{3});
  b.add(Sequence{1});
  b.add(Sequence{2, 3});
  c.add(Sequence{3});
  c.add(Sequence{1, 2});
  EXPECT_NE(a.digest(), b.digest());
  EXPECT_NE(a.digest(), c.digest());
  CorpusSplit one{a, c}, other{c, a};
  EXPECT_NE(one.digest(), other.digest());
  EXPECT_EQ(a.digest(), 7747698536962293690u);  // the same on every machine
}

TEST(Corpus, FilesWithoutASequenceAreNamed) {
  Data data(text_line("abcdefgh"));
  data.add(text_line("ab") + text_line("c"), "short.jsonl");
  EXPECT_THAT(data.complaint(), HasSubstr("short.jsonl: has no document of at least 4 tokens"));
  data.options.max_tokens = 6;  // reached before that file
  EXPECT_EQ(data.load().train.size(), 1);
  std::swap(data.options.files[0], data.options.files[1]);
  EXPECT_THAT(data.complaint(), HasSubstr("short.jsonl: has no document"));
}

TEST(Corpus, RefusesWrongOptions) {
  const auto with = [](const auto& change) {
    Data data(text_line("abcdefgh"));
    change(data.options);
    return data.complaint();
  };
  EXPECT_EQ(with([](CorpusOptions& o) { o.sequence_length = 1; }),
            "--sequence-length: is 1, should be 2 or more");
  EXPECT_EQ(with([](CorpusOptions& o) { o.min_length = 1; }),
            "min_length: is 1, should be 2 to the sequence length of 16");
  EXPECT_EQ(with([](CorpusOptions& o) { o.min_length = 17; }),
            "min_length: is 17, should be 2 to the sequence length of 16");
  EXPECT_EQ(with([](CorpusOptions& o) { o.held_out_share = 0.6; }),
            "--held-out: is 0.6, should be 0 to 0.5");
  EXPECT_THAT(with([](CorpusOptions& o) { o.held_out_share = std::nan(""); }),
              HasSubstr("--held-out"));
  EXPECT_THAT(with([](CorpusOptions& o) { o.max_tokens = -1; }), HasSubstr("--max-data-tokens"));
}

TEST(Corpus, TokenizerAndModelHaveToFit) {
  Data data(text_line("abcdefgh"));
  EXPECT_THAT(data.complaint(ErrorKind::kModel, 200),
              HasSubstr("the tokenizer gives token 257 ('<s>'), and the model has a vocabulary of "
                        "200"));
}

}  // namespace
}  // namespace convoke
