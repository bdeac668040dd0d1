// The tokenizer against what the reference library made of the same files and texts
// (tests/golden/make_tokenizers.py).
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "runtime/tokenizer/decoder.h"
#include "runtime/tokenizer/normalizer.h"
#include "runtime/tokenizer/pre_tokenizer.h"
#include "runtime/tokenizer/tokenizer.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

using nlohmann::json;

const std::filesystem::path kGolden =
    std::filesystem::path(CONVOKE_SOURCE_DIR) / "tests/golden/tokenizers";

json read(const std::filesystem::path& path) {
  std::ifstream stream(path);
  EXPECT_TRUE(stream.is_open()) << path;
  return json::parse(stream);
}

std::string from_hex(const std::string& hex) {
  std::string out;
  for (size_t i = 0; i + 1 < hex.size(); i += 2) {
    out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  }
  return out;
}

std::vector<std::string> corpus() {
  std::vector<std::string> out;
  for (const auto& hex : read(kGolden / "corpus.json")) out.push_back(from_hex(hex));
  return out;
}

uint64_t fnv(std::string_view text) {
  uint64_t value = 0xCBF29CE484222325ull;
  for (const char c : text) value = (value ^ static_cast<uint8_t>(c)) * 0x100000001B3ull;
  return value;
}

std::string short_hash(const std::vector<std::string>& parts) {
  std::string all;
  for (const auto& part : parts) all += part + std::string("\0\n", 2);
  return fmt::format("{:08x}", fnv(all) & 0xFFFFFFFF);
}

/// Hashes stand in one string, eight digits each.
std::string hash_at(const json& hashes, size_t index) {
  return hashes.get_ref<const std::string&>().substr(8 * index, 8);
}

std::string streamed(const Tokenizer& tokenizer, const std::vector<int32_t>& ids, bool skip) {
  StreamingDecoder decoder(tokenizer, skip);
  std::string out;
  for (const int32_t id : ids) {
    const std::string piece = decoder.push(id);
    EXPECT_TRUE(unicode::is_valid_utf8(piece)) << "half a character after id " << id;
    out += piece;
  }
  return out + decoder.finish();
}

class Family : public testing::TestWithParam<std::string> {
 protected:
  static std::filesystem::path directory() {
    if (GetParam() == "demo") return std::filesystem::path(CONVOKE_SOURCE_DIR) / "demo/model";
    return kGolden / GetParam();
  }
  std::vector<int32_t> with_template(const std::vector<int32_t>& ids) const {
    std::vector<int32_t> full = expected_["before"];
    full.insert(full.end(), ids.begin(), ids.end());
    for (const int32_t id : expected_["after"]) full.push_back(id);
    return full;
  }
  std::unique_ptr<Tokenizer> tokenizer_ = Tokenizer::load(directory());
  json expected_ = read(kGolden / GetParam() / "expected.json");
};

TEST_P(Family, GivesTheReferencesIds) {
  const auto texts = corpus();
  ASSERT_EQ(texts.size(), expected_["cases"].size());
  for (size_t i = 0; i < texts.size(); ++i) {
    const json& want = expected_["cases"][i];
    SCOPED_TRACE(fmt::format("text {}: \"{}\"", i, unicode::replace_invalid(texts[i])));
    const std::vector<int32_t> ids = want["ids"];
    EXPECT_EQ(tokenizer_->encode(texts[i], {.add_special_tokens = false}), ids);
    EXPECT_EQ(tokenizer_->encode(texts[i]), with_template(ids));
    EXPECT_EQ(
        tokenizer_->encode(texts[i], {.add_special_tokens = false, .parse_special_tokens = false}),
        want.contains("as_text") ? want["as_text"].get<std::vector<int32_t>>() : ids);
  }
}

TEST_P(Family, DecodesAsTheReference) {
  const auto texts = corpus();
  const auto check = [&](const std::vector<int32_t>& ids, const std::string& kept,
                         const std::string& skipped) {
    EXPECT_EQ(tokenizer_->decode(ids, false), kept);
    EXPECT_EQ(tokenizer_->decode(ids, true), skipped);
    EXPECT_EQ(streamed(*tokenizer_, ids, false), kept);
    EXPECT_EQ(streamed(*tokenizer_, ids, true), skipped);
  };
  for (size_t i = 0; i < texts.size(); ++i) {
    const json& want = expected_["cases"][i];
    const std::string text = unicode::replace_invalid(texts[i]);
    SCOPED_TRACE(fmt::format("text {}: \"{}\"", i, text));
    const std::string around = expected_["around"][0].get<std::string>() + text +
                               expected_["around"][1].get<std::string>();
    check(with_template(want["ids"]), want.value("kept", around), want.value("skipped", text));
  }
  for (const json& want : expected_["streams"]) {
    SCOPED_TRACE(want["ids"].dump());
    check(want["ids"], want["kept"], want["skipped"]);
  }
}

TEST_P(Family, KnowsItsVocabulary) {
  EXPECT_EQ(tokenizer_->vocabulary(), expected_["vocabulary"]);
  const auto id = [&](const char* key) -> std::optional<int32_t> {
    if (expected_[key].is_null()) return std::nullopt;
    return expected_[key].get<int32_t>();
  };
  EXPECT_EQ(tokenizer_->bos(), id("bos"));
  EXPECT_EQ(tokenizer_->eos(), id("eos"));
  for (int32_t i = 0; i < tokenizer_->vocabulary(); ++i) {
    EXPECT_EQ(tokenizer_->token_to_id(tokenizer_->id_to_token(i)), i);
  }
}

INSTANTIATE_TEST_SUITE_P(Tokenizer, Family,
                         testing::Values("demo", "gpt2", "gpt2_prefix", "llama3", "qwen2", "qwen3",
                                         "tekken", "cl100k", "deepseek", "falcon", "llama2_legacy",
                                         "llama2_metaspace", "mistral", "mistral_always",
                                         "metaspace_never"),
                         [](const auto& family) { return family.param; });

TEST(TokenizerGolden, PreTokenizersCutWhereTheReferenceDoes) {
  const json golden = read(kGolden / "pre_tokenizers.json");
  RegexScratch scratch;
  size_t checked = 0, refused = 0;
  for (const json& step : golden["steps"]) {
    SCOPED_TRACE(step["config"].dump());
    PreTokenizer pre_tokenizer;
    try {
      pre_tokenizer = PreTokenizer(JsonValue(step["config"], "golden"));
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find("not supported"), std::string::npos) << error.what();
      ++refused;
      continue;
    }
    pre_tokenizer.map_bytes_to_characters();
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      const std::string text = golden["texts"][i];
      // Of characters newer than Unicode 14 only categories are known, not scripts or case.
      const bool scripts = step["config"].dump().find("Latin") != std::string::npos ||
                           step["config"].dump().find("Upper") != std::string::npos;
      if (scripts && unicode::has_new_characters(text)) continue;
      std::vector<std::string> pieces;
      pre_tokenizer.split(text, true, scratch,
                          [&](std::string_view piece) { pieces.emplace_back(piece); });
      EXPECT_EQ(short_hash(pieces), hash_at(step["hashes"], i)) << "\"" << text << "\"";
      ++checked;
    }
  }
  EXPECT_GT(checked, 8000u);
  EXPECT_LE(refused, 1u);  // class intersection
}

TEST(TokenizerGolden, NormalizersAgree) {
  const json golden = read(kGolden / "normalizers.json");
  RegexScratch scratch;
  for (const json& step : golden["steps"]) {
    SCOPED_TRACE(step["config"].dump());
    const auto normalizer = make_normalizer(JsonValue(step["config"], "golden"));
    for (size_t i = 0; i < golden["texts"].size(); ++i) {
      NormalizedText text{golden["texts"][i], true};
      normalizer->apply(text, scratch);
      EXPECT_EQ(short_hash({text.text}), hash_at(step["hashes"], i)) << golden["texts"][i];
    }
  }
}

TEST(TokenizerGolden, DecodersAgree) {
  const json golden = read(kGolden / "decoders.json");
  for (const json& step : golden["decoders"]) {
    SCOPED_TRACE(step["config"].dump());
    const Decoder decoder(JsonValue(step["config"], "golden"));
    for (size_t i = 0; i < golden["tokens"].size(); ++i) {
      DecodeChain chain = decoder.start();
      for (const std::string token : golden["tokens"][i]) chain.push(token);
      chain.finish();
      EXPECT_EQ(chain.out(), step["out"][i]) << golden["tokens"][i].dump();
    }
  }
}

template <typename Matches>
std::string ranges(Matches matches) {
  std::string out;
  constexpr uint32_t kEnd = 0x110000;
  uint32_t first = kEnd;
  const auto close = [&](uint32_t last) {
    if (first == kEnd) return;
    if (!out.empty()) out += ",";
    out += first == last ? fmt::format("{:x}", first) : fmt::format("{:x}-{:x}", first, last);
    first = kEnd;
  };
  for (uint32_t c = 0; c <= kEnd; ++c) {
    const bool match = c < kEnd && !(c >= 0xD800 && c <= 0xDFFF) && matches(c);
    if (match && first == kEnd) first = c;
    if (!match) close(c - 1);
  }
  return out;
}

TEST(TokenizerGolden, CodePointsHaveTheReferencesProperties) {
  const json golden = read(kGolden / "properties.json")["properties"];
  RegexScratch scratch;
  for (const auto& [name, want] : golden.items()) {
    SCOPED_TRACE(name);
    std::function<bool(uint32_t)> matches;
    if (name == "white_space") {
      matches = unicode::is_white_space;
    } else if (name == "punctuation") {
      matches = unicode::is_punctuation;
    } else if (name == "numeric") {
      matches = unicode::is_numeric;
    } else if (name == "word") {
      matches = unicode::is_word;
    } else {
      std::vector<bool> found(0x110000);
      std::string all;
      for (uint32_t c = 0; c < 0x110000; ++c) {
        if (c < 0xD800 || c > 0xDFFF) unicode::append_code_point(all, c);
      }
      Pattern::regex(name).for_each_match(all, scratch, [&](size_t begin, size_t end) {
        while (begin < end) found[unicode::next_code_point(all, begin)] = true;
      });
      // The match stands in the text that was matched, not in its stand-ins.
      matches = [found](uint32_t c) { return found[c]; };
    }
    EXPECT_EQ(ranges(matches), want.get<std::string>());
  }
}

TEST(TokenizerGolden, NormalizersAgreeOnEveryCodePoint) {
  const json golden = read(kGolden / "properties.json")["hashes"];
  RegexScratch scratch;
  for (const auto& [name, blocks] : golden.items()) {
    const json config = {{"type", name}};
    const auto normalizer = make_normalizer(JsonValue(config, "golden"));
    for (uint32_t block = 0; block < 0x110; ++block) {
      NormalizedText text{{}, true};
      for (uint32_t c = block * 0x1000; c < (block + 1) * 0x1000; ++c) {
        if (c >= 0xD800 && c <= 0xDFFF) continue;
        unicode::append_code_point(text.text, c);
        text.text += "\na";
        unicode::append_code_point(text.text, c);
        text.text += "\xCC\xB4\xCC\x81\n";  // U+0334 U+0301
      }
      normalizer->apply(text, scratch);
      EXPECT_EQ(short_hash({text.text}), hash_at(blocks, block)) << name << " block " << block;
    }
  }
}

}  // namespace
}  // namespace convoke
