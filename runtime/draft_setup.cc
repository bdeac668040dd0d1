#include "runtime/draft_setup.h"

#include "kernels/check.h"

namespace convoke {

std::shared_ptr<const DraftSupport> make_draft_support(const DrafterSpec& spec,
                                                       const ModelConfig& target) {
  auto support = std::make_shared<DraftSupport>();
  const DraftNeeds& needs = support->needs = draft_needs(spec, target);
  if (needs.lookahead_count > 0 && needs.lookahead_directory.empty()) {
    support->lookahead = random_lookahead(needs.lookahead_count, target.hidden);
  } else if (needs.lookahead_count > 0) {
    support->lookahead = load_lookahead(needs.lookahead_directory, target);
    CONVOKE_CHECK_LE(needs.lookahead_count, support->lookahead.count);
  }
  support->limits = spec.limits;
  support->auto_size = spec.auto_size;
  return support;
}

}  // namespace convoke
