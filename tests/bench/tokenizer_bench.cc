// Encoding and decoding speed: bytes of text per second on one core. Texts come from the
// repository; a vocabulary of 128k entries is trained on nothing but sized like a real one.
#include <benchmark/benchmark.h>
#include <fmt/format.h>

#include <fstream>
#include <iterator>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>

#include "runtime/tokenizer/tokenizer.h"

namespace convoke {
namespace {

const std::string kRoot = CONVOKE_SOURCE_DIR;

/// Sources of this project: English comments and code, about 300 KB.
const std::string& text() {
  static const std::string all = [] {
    std::string out;
    for (const char* file :
         {"runtime/tokenizer/onig_pattern.cc", "runtime/tokenizer/bpe_model.cc",
          "runtime/tokenizer/decoder.cc", "runtime/tokenizer/pre_tokenizer.cc",
          "runtime/tokenizer/hf_tokenizer.cc", "tests/golden/make_tokenizers.py",
          "tests/runtime/tokenizer_test.cc", "demo/prompts.jsonl", "demo/README.md"}) {
      std::ifstream stream(kRoot + "/" + file, std::ios::binary);
      out.append(std::istreambuf_iterator<char>(stream), {});
    }
    return out + out;
  }();
  return all;
}

/// The demo's tokenizer with merges of made-up words up to 128k entries.
const Tokenizer& large() {
  static const auto tokenizer = [] {
    std::ifstream stream(kRoot + "/demo/model/tokenizer.json");
    auto json = nlohmann::json::parse(stream);
    auto& vocab = json["model"]["vocab"];
    auto& merges = json["model"]["merges"];
    json["added_tokens"] = nlohmann::json::array();
    json.erase("post_processor");
    std::vector<std::string> tokens;
    for (const auto& [token, id] : vocab.items()) tokens.push_back(token);
    for (size_t i = 0; vocab.size() < 128000; ++i) {
      const auto& left = tokens[(i * 7919) % tokens.size()];
      const auto& right = tokens[(i * 104729 + i / tokens.size()) % tokens.size()];
      if (vocab.contains(left + right)) continue;
      vocab[left + right] = vocab.size();
      merges.push_back({left, right});
    }
    return Tokenizer::parse(json.dump());
  }();
  return *tokenizer;
}

void encode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& input) {
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.encode(input));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * input.size()));
}

void decode(benchmark::State& state, const Tokenizer& tokenizer, const std::string& input) {
  const auto ids = tokenizer.encode(input);
  for (auto _ : state) benchmark::DoNotOptimize(tokenizer.decode(ids));
  state.SetBytesProcessed(static_cast<int64_t>(state.iterations() * input.size()));
}

const Tokenizer& load(const std::string& folder) {
  static std::map<std::string, std::unique_ptr<Tokenizer>> all;
  auto& tokenizer = all[folder];
  if (!tokenizer) tokenizer = Tokenizer::load(kRoot + "/" + folder);
  return *tokenizer;
}

void register_all() {
  const auto add = [](const std::string& name, auto&& run) {
    benchmark::RegisterBenchmark(name.c_str(), run);
  };
  add("encode/demo", [](auto& s) { encode(s, load("demo/model"), text()); });
  add("encode/128k", [](auto& s) { encode(s, large(), text()); });
  for (const char* family : {"gpt2", "llama3", "qwen2", "llama2_legacy", "llama2_metaspace"}) {
    const std::string folder = std::string("tests/golden/tokenizers/") + family;
    add(std::string("encode/") + family, [folder](auto& s) { encode(s, load(folder), text()); });
  }
  for (const char c : {' ', 'a'}) {
    add(fmt::format("encode/demo/100k '{}'", c),
        [c](auto& s) { encode(s, load("demo/model"), std::string(100000, c)); });
  }
  add("decode/demo", [](auto& s) { decode(s, load("demo/model"), text()); });
  add("decode/llama2_legacy",
      [](auto& s) { decode(s, load("tests/golden/tokenizers/llama2_legacy"), text()); });
}

}  // namespace
}  // namespace convoke

int main(int argc, char** argv) {
  benchmark::Initialize(&argc, argv);
  convoke::register_all();
  benchmark::RunSpecifiedBenchmarks();
  return 0;
}
