#include "runtime/feature_ring.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke {
namespace {

/// Whatever the passes are, kNamesThatStay rows are there beside those of the pass that is running.
int64_t named_rows(int pass_rows) {
  return kNamesThatStay + 2 * int64_t{pass_rows};
}

}  // namespace

FeatureRing::FeatureRing(int places, int pass_rows)
    : named_rows_(named_rows(pass_rows)), own_rows_(2 * int64_t{places}) {}

int64_t FeatureRing::bytes(int places, int pass_rows, int64_t width, DType dtype) {
  return (named_rows(pass_rows) + 2 * int64_t{places}) * width * int64_t(dtype_size(dtype));
}

void FeatureRing::prepare(Backend& backend, DType dtype, int64_t width) {
  {
    const std::lock_guard lock(mutex_);
    if (all_.cols == width && (width == 0 || all_.dtype == dtype)) return;
  }
  const int64_t rows = named_rows_ + own_rows_;
  std::shared_ptr<Buffer> memory;
  if (width > 0) memory = backend.allocate(size_t(rows * width) * dtype_size(dtype));
  const std::lock_guard lock(mutex_);
  // A drafter that reads the old memory keeps it until it has.
  memory_ = std::move(memory);
  all_ = width == 0 ? TensorView{} : TensorView::matrix(memory_->data(), dtype, rows, width);
  first_ = next_;
}

bool FeatureRing::take(int count, std::vector<int64_t>& names) {
  names.clear();
  const std::lock_guard lock(mutex_);
  if (readers_ == 0 || all_.rows == 0) return false;
  CONVOKE_CHECK_LE(count, named_rows_);
  if (reading_ && next_ + count - named_rows_ > *reading_) return false;
  for (int i = 0; i < count; ++i) names.push_back(next_++);
  return true;
}

TensorView FeatureRing::rows() const {
  const std::lock_guard lock(mutex_);
  return all_.rows == 0 ? all_ : all_.row_range(0, named_rows_);
}

FeatureRing::Reading::Reading(FeatureRing& ring, int64_t oldest) : ring_(ring) {
  const std::lock_guard lock(ring_.mutex_);
  CONVOKE_CHECK(!ring_.reading_);
  memory_ = ring_.memory_;
  all_ = ring_.all_;
  end_ = ring_.next_;
  begin_ = std::max(ring_.first_, ring_.next_ - ring_.named_rows_);
  ring_.reading_ = std::max(oldest, begin_);
}

FeatureRing::Reading::~Reading() {
  const std::lock_guard lock(ring_.mutex_);
  ring_.reading_.reset();
}

int32_t FeatureRing::Reading::row(int64_t name) const {
  return begin_ <= name && name < end_ && all_.rows > 0 ? ring_.row_of(name) : -1;
}

FeatureRing::Reader::Reader(std::shared_ptr<FeatureRing> ring) : ring_(std::move(ring)) {
  const std::lock_guard lock(ring_->mutex_);
  ++ring_->readers_;
}

FeatureRing::Reader::~Reader() {
  const std::lock_guard lock(ring_->mutex_);
  --ring_->readers_;
}

}  // namespace convoke
