// Lines of training text from anybody.
#include <cstdint>
#include <cstdlib>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "kernels/check.h"
#include "training/data/text_files.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace convoke;
  using Kind = TrainingDocument::Kind;
  const std::string_view line(reinterpret_cast<const char*>(data), size);
  constexpr int kVocabulary = 1000;
  // What a template may rely on: a list of messages, each with a role and content.
  const auto render = [](const nlohmann::ordered_json& messages) {
    if (!messages.is_array() || messages.empty()) std::abort();
    std::string text;
    for (const auto& message : messages) {
      if (message.at("role").get<std::string>().empty()) std::abort();
      text += message.at("content").dump();
    }
    return text;
  };
  try {
    const TrainingDocument document = parse_training_line(line, kVocabulary, render, "lines:1");
    if (document.kind == Kind::kTokens ? !document.text.empty() : !document.tokens.empty()) {
      std::abort();
    }
    if (document.kind == Kind::kChat && document.text.empty()) std::abort();
    for (const int32_t token : document.tokens) {
      if (token < 0 || token >= kVocabulary) std::abort();
    }
  } catch (const Error& error) {
    // The message is one line that begins with the place.
    const std::string_view what = error.what();
    if (error.kind() != ErrorKind::kUsage || !what.starts_with("lines:1: ")) std::abort();
    if (what.find('\n') != std::string_view::npos) std::abort();
  }
  return 0;
}
