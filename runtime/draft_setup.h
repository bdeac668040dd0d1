// What the target's passes do for the drafter of a job. Drafters may be exchanged between requests
// (a benchmark compares them), so whoever executes passes looks here before each.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "runtime/draft_needs.h"
#include "runtime/drafter.h"
#include "runtime/lookahead_table.h"

namespace convoke {

struct DraftSupport {
  DraftNeeds needs;
  LookaheadTable lookahead;  ///< what probe rows with negative tokens enter as

  /// How large trees may be, and whether their size is chosen step by step or fixed.
  DraftLimits limits;
  bool auto_size = true;
};

/// Reads what the method needs, look-ahead embeddings included. Throws Error(kModel) where head and
/// target do not fit.
std::shared_ptr<const DraftSupport> make_draft_support(const DrafterSpec& spec,
                                                       const ModelConfig& target);

/// The present DraftSupport of a process. Any thread may replace it, between requests only: a tree
/// that was made for the old one is refused or loses its probes' rankings, never its exactness.
class DraftSetup {
 public:
  void set(std::shared_ptr<const DraftSupport> support) {
    const std::lock_guard lock(mutex_);
    support_ = std::move(support);
    version_.fetch_add(1, std::memory_order_release);
  }
  std::shared_ptr<const DraftSupport> get() const {
    const std::lock_guard lock(mutex_);
    return support_;
  }
  /// Changes with every set(): cheap enough to ask in every step.
  uint64_t version() const { return version_.load(std::memory_order_acquire); }

 private:
  mutable std::mutex mutex_;
  std::shared_ptr<const DraftSupport> support_ = std::make_shared<const DraftSupport>();
  std::atomic<uint64_t> version_{0};
};

}  // namespace convoke
