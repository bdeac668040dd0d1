// `convoke inspect DIR` for the directory (or file) of a drafter: which one it is, what it holds,
// which targets it fits, and everything that stands against loading it.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "launcher/inspect.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {

struct HeadInspection {
  std::string directory;
  std::string method;  ///< eagle, eagle3, medusa, pass: what --drafter calls it
  /// What a target must have; 0 = not known, or any.
  int64_t hidden = 0, vocabulary = 0;
  std::vector<std::pair<std::string, std::string>> facts;  ///< label and text, for people
  std::vector<TensorInfo> tensors;
  std::string target;                 ///< the directory it was checked against; "" = none
  std::vector<std::string> problems;  ///< each names file and tensor or key; empty = it loads

  int64_t parameters() const;
  int64_t bytes() const;
};

/// nullopt if the directory holds no drafter. Never throws for what it holds. With options.model
/// the drafter is checked against that target, else against one of the size it says itself.
std::optional<HeadInspection> inspect_head(const InspectOptions& options);

/// As run_inspect.
int print_head(const HeadInspection& found, bool json, std::ostream& out, std::ostream& err);

}  // namespace convoke
