#include "runtime/drafters/tree_methods.h"

#include <algorithm>
#include <optional>

#include "kernels/check.h"
#include "runtime/drafters/registry.h"
#include "runtime/heads/branch_factory.h"

namespace convoke {
namespace {

constexpr char kDraftModel[] = "draft-model";

}  // namespace

TreeMethodOptions TreeMethodOptions::parse(const std::string& method, const std::string& argument) {
  TreeMethodOptions options;
  const size_t comma = std::min(argument.find(','), argument.size());
  options.directory = argument.substr(0, comma);
  if (options.directory.empty()) {
    throw_error(ErrorKind::kUsage, "--drafter {} needs a directory: {}:DIR[,OPTIONS]{}", method,
                method, method == kDraftModel ? "" : " (DIR 'random' measures costs)");
  }
  const std::string rest = comma < argument.size() ? argument.substr(comma + 1) : "";
  for (const auto& [key, value] : parse_options(method, rest)) {
    if (key != "tree") {
      throw_error(ErrorKind::kUsage, "--drafter {}: unknown option '{}'; there is tree", method,
                  key);
    }
    if (value != "dynamic" && value != "static") {
      throw_error(ErrorKind::kUsage, "--drafter {}: tree is '{}', expected dynamic or static",
                  method, value);
    }
    options.shape = value == "static" ? TreeShape::kStatic : TreeShape::kDynamic;
  }
  return options;
}

std::unique_ptr<Drafter> make_tree_drafter(const DrafterSpec& spec, const DraftContext& context) {
  const TreeMethodOptions options = TreeMethodOptions::parse(spec.method, spec.argument);
  TreeDrafterOptions tree;
  tree.shape = options.shape;
  tree.ahead = spec.ahead.value_or(false);
  return std::make_unique<TreeDrafter>(
      spec.method,
      open_branch_model(spec.method, options.directory, context,
                        BranchOptions{.shared_noise = spec.shared_noise}),
      tree);
}

DraftNeeds tree_method_needs(const DrafterSpec& spec, const ModelConfig& target) {
  if (spec.method == kDraftModel) return {};
  return head_needs(spec.method, TreeMethodOptions::parse(spec.method, spec.argument).directory,
                    target);
}

}  // namespace convoke
