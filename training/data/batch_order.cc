#include "training/data/batch_order.h"

#include <utility>

#include "kernels/check.h"
#include "kernels/noise.h"

namespace convoke {

namespace {

/// Sets these draws apart from the noise of the pick rule.
constexpr uint32_t kCounterWord = 0x6f726472;

/// Uniform in [0, bound), up to bound / 2^64.
uint64_t draw(uint64_t seed, int64_t epoch, uint64_t bound) {
  const auto bits = philox4x32({uint32_t(bound), uint32_t(bound >> 32), uint32_t(epoch),
                                kCounterWord ^ uint32_t(epoch >> 32)},
                               {uint32_t(seed), uint32_t(seed >> 32)});
  using Wide = unsigned __int128;
  return uint64_t((Wide((uint64_t(bits[1]) << 32) | bits[0]) * bound) >> 64);
}

}  // namespace

BatchOrder::BatchOrder(uint64_t seed, int64_t sequences, int batch_size)
    : seed_(seed), sequences_(sequences), batch_size_(batch_size) {
  CONVOKE_CHECK_GE(sequences, 1);
  CONVOKE_CHECK_GE(batch_size, 1);
}

/// Fisher and Yates, with the number of places left as the counter of the draws.
void BatchOrder::shuffle(int64_t epoch) {
  order_.resize(size_t(sequences_));
  for (size_t i = 0; i < order_.size(); ++i) order_[i] = int64_t(i);
  for (size_t left = order_.size(); left > 1; --left) {
    std::swap(order_[left - 1], order_[size_t(draw(seed_, epoch, left))]);
  }
  epoch_ = epoch;
}

std::vector<int64_t> BatchOrder::batch(int64_t step) {
  CONVOKE_CHECK_GE(step, 0);
  std::vector<int64_t> indices;
  indices.reserve(size_t(batch_size_));
  for (int64_t place = step * batch_size_; place < (step + 1) * batch_size_; ++place) {
    if (place / sequences_ != epoch_) shuffle(place / sequences_);
    indices.push_back(order_[size_t(place % sequences_)]);
  }
  return indices;
}

double BatchOrder::epochs(int64_t steps) const {
  return double(steps) * batch_size_ / double(sequences_);
}

}  // namespace convoke
