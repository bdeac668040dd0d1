#include "actors/messages.h"

#include <algorithm>
#include <bit>

namespace convoke {

bool OutputToken::operator==(const OutputToken& other) const {
  const auto same = [](const TokenLogprob& a, const TokenLogprob& b) {
    // Bits, not values: outputs are compared for identity.
    return a.token == b.token &&
           std::bit_cast<uint32_t>(a.logprob) == std::bit_cast<uint32_t>(b.logprob);
  };
  return token == other.token && drafted == other.drafted && digest == other.digest &&
         std::ranges::equal(logprobs, other.logprobs, same);
}

}  // namespace convoke
