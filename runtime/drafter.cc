#include "runtime/drafter.h"

#include <array>
#include <charconv>

#include "kernels/check.h"
#include "runtime/drafters/fan.h"
#include "runtime/drafters/lookahead.h"
#include "runtime/drafters/medusa.h"
#include "runtime/drafters/ngram.h"
#include "runtime/drafters/pass.h"
#include "runtime/drafters/random.h"
#include "runtime/drafters/registry.h"
#include "runtime/drafters/tree_methods.h"

namespace convoke {
namespace {

std::unique_ptr<Drafter> make_pass(const DrafterSpec& spec, const DraftContext& context) {
  const PassOptions options = PassOptions::parse(spec.argument);
  // Random embeddings fit any target.
  const ModelConfig target =
      options.directory.empty() ? ModelConfig{} : ModelConfig::load(context.model);
  return std::make_unique<PassDrafter>(options, pass_lookahead(options, target));
}

constexpr std::array kMethods{
    DraftMethod{"none", "no drafting",
                [](const std::string& argument) {
                  if (!argument.empty()) {
                    throw_error(ErrorKind::kUsage, "--drafter none takes no argument, not '{}'",
                                argument);
                  }
                },
                [](const DrafterSpec&, const DraftContext&) { return std::unique_ptr<Drafter>(); }},
    DraftMethod{"ngram", "prompt lookup: what followed the last words before",
                [](const std::string& argument) { NgramOptions::parse(argument); },
                [](const DrafterSpec& spec, const DraftContext&) -> std::unique_ptr<Drafter> {
                  return std::make_unique<NgramDrafter>(NgramOptions::parse(spec.argument));
                }},
    DraftMethod{"pass", "look-ahead embeddings: the target drafts for itself",
                [](const std::string& argument) { PassOptions::parse(argument); }, make_pass,
                [](const DrafterSpec& spec, const ModelConfig& target) {
                  const PassOptions options = PassOptions::parse(spec.argument);
                  return DraftNeeds{.lookahead_count = pass_lookahead(options, target),
                                    .lookahead_directory = options.directory,
                                    .probe_candidates = options.candidates};
                }},
    DraftMethod{"lookahead", "Lookahead decoding: n-grams out of Jacobi iteration, no training",
                [](const std::string& argument) { LookaheadOptions::parse(argument); },
                [](const DrafterSpec& spec, const DraftContext&) -> std::unique_ptr<Drafter> {
                  return std::make_unique<LookaheadDrafter>(LookaheadOptions::parse(spec.argument));
                }},
    DraftMethod{"eagle", "EAGLE-1/2 heads: the next feature extrapolated",
                [](const std::string& argument) { TreeMethodOptions::parse("eagle", argument); },
                make_tree_drafter, tree_method_needs, true},
    DraftMethod{"eagle3", "EAGLE-3 heads: three layers of the target fused",
                [](const std::string& argument) { TreeMethodOptions::parse("eagle3", argument); },
                make_tree_drafter, tree_method_needs, true},
    DraftMethod{
        "draft-model", "a smaller model with the same tokenizer",
        [](const std::string& argument) { TreeMethodOptions::parse("draft-model", argument); },
        make_tree_drafter, tree_method_needs, true},
    DraftMethod{"medusa", "heads that each guess one of the next tokens: medusa:DIR or :random",
                [](const std::string& argument) { require_head("medusa", argument); },
                make_medusa_drafter,
                [](const DrafterSpec& spec, const ModelConfig& target) {
                  return head_needs(spec.method, spec.argument, target);
                },
                true},
    DraftMethod{
        "fan", "a fixed number of guesses, to measure what a pass over so many rows costs",
        [](const std::string& argument) { FanDrafter::parse_nodes(argument); },
        [](const DrafterSpec& spec, const DraftContext& context) -> std::unique_ptr<Drafter> {
          return std::make_unique<FanDrafter>(FanDrafter::parse_nodes(spec.argument),
                                              context.vocabulary);
        }},
    DraftMethod{
        "random", "random trees, to test that drafts never change a token",
        [](const std::string& argument) { RandomDrafter::parse_seed(argument); },
        [](const DrafterSpec& spec, const DraftContext& context) -> std::unique_ptr<Drafter> {
          return std::make_unique<RandomDrafter>(RandomDrafter::parse_seed(spec.argument),
                                                 context.vocabulary);
        }},
};

const DraftMethod& find_method(const std::string& name) {
  std::string known;
  for (const DraftMethod& method : kMethods) {
    if (name == method.name) return method;
    known += fmt::format("{}{}", known.empty() ? "" : ", ", method.name);
  }
  throw_error(ErrorKind::kUsage, "--drafter: unknown method '{}'; the methods are {}", name, known);
}

}  // namespace

std::span<const DraftMethod> draft_methods() {
  return kMethods;
}

std::vector<std::pair<std::string, std::string>> parse_options(const std::string& method,
                                                               const std::string& argument) {
  std::vector<std::pair<std::string, std::string>> options;
  for (size_t begin = 0; begin < argument.size();) {
    const size_t end = std::min(argument.find(',', begin), argument.size());
    const std::string item = argument.substr(begin, end - begin);
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw_error(ErrorKind::kUsage, "--drafter {}: '{}' is not of the form name=value", method,
                  item);
    }
    options.emplace_back(item.substr(0, equals), item.substr(equals + 1));
    begin = end + 1;
  }
  return options;
}

uint64_t parse_number(const std::string& method, const std::string& key, const std::string& text,
                      uint64_t low, uint64_t high) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
    throw_error(ErrorKind::kUsage, "--drafter {}: {} is '{}', expected a number from {} to {}",
                method, key, text, low, high);
  }
  return value;
}

DrafterSpec DrafterSpec::parse(const std::string& text) {
  DrafterSpec spec;
  const size_t colon = text.find(':');
  spec.method = text.substr(0, colon);
  if (colon != std::string::npos) spec.argument = text.substr(colon + 1);
  find_method(spec.method).check(spec.argument);
  return spec;
}

bool has_model(const DrafterSpec& spec) {
  return find_method(spec.method).has_model;
}

std::unique_ptr<Drafter> make_drafter(const DrafterSpec& spec, const DraftContext& context) {
  return find_method(spec.method).make(spec, context);
}

DraftNeeds draft_needs(const DrafterSpec& spec, const ModelConfig& target) {
  const DraftMethod& method = find_method(spec.method);
  return method.needs != nullptr ? method.needs(spec, target) : DraftNeeds{};
}

}  // namespace convoke
