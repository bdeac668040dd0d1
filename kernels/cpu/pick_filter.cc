// top-k, top-p and min-p without sorting a row: a histogram of the distances from the maximum
// finds the bucket in which each filter's border lies, and only that bucket is ordered.
#include <algorithm>
#include <cstring>

#include "kernels/cpu/pick_row.h"

namespace convoke::cpu {
namespace {

class CutFinder {
 public:
  CutFinder(const PickKernels& kernels, const ScaledRow& row, const PickRow& params,
            int32_t* tokens)
      : kernels_(kernels), row_(row), params_(params), tokens_(tokens) {
    by_k_ = params.top_k > 0 && params.top_k < row.columns;
    by_p_ = params.top_p < 1.0f;
  }

  PickCut find() {
    PickCut cut{kNoChance, std::numeric_limits<int32_t>::max(), row_.maximum,
                std::numeric_limits<float>::infinity()};
    if (by_k_ || by_p_) {
      weigh(kNearDistance);
      if (!border_is_filed()) weigh(std::numeric_limits<float>::infinity());
      last_bucket_ = kWeightBuckets - 1;
      total_ = histogram_.total;
    }
    if (by_k_) cut_by_count(cut);
    if (by_p_) cut_by_mass(cut);
    if (params_.min_p > 0) cut.max_distance = min_p_reach(params_.min_p);
    return cut;
  }

 private:
  void weigh(float limit) {
    std::memset(&histogram_, 0, sizeof histogram_);
    kernels_.weigh(row_.main, row_.main_columns, row_.maximum, limit, &histogram_);
    kernels_.weigh(row_.tail, row_.tail_columns(), row_.maximum, limit, &histogram_);
  }

  /// Whether the buckets nearer than kNearDistance hold what has to be kept.
  bool border_is_filed() const {
    uint64_t mass = 0, count = 0;
    for (int b = 0; b < int(kNearDistance * kBucketsPerUnit); ++b) {
      mass += histogram_.mass[b];
      count += histogram_.count[b];
    }
    if (by_k_) return count >= uint64_t(params_.top_k);
    return double(mass) >= target(histogram_.total);
  }

  double target(uint64_t total) const { return double(params_.top_p) * double(total); }

  bool before(int32_t a, int32_t b) const {
    const float xa = row_[a], xb = row_[b];
    return xa > xb || (xa == xb && a < b);
  }

  uint64_t weight_of(int32_t column) const {
    return weight(weight_distance(row_[column], row_.maximum));
  }

  /// The columns of a bucket, into tokens_.
  int64_t collect(int bucket) {
    int64_t count =
        kernels_.collect(row_.main, row_.main_columns, row_.maximum, bucket, 0, tokens_);
    // The tail is padded to a block: its last columns may not exist.
    int32_t extra[kPickBlock];
    const int64_t found = kernels_.collect(row_.tail, row_.tail_columns(), row_.maximum, bucket,
                                           int32_t(row_.main_columns), extra);
    for (int64_t i = 0; i < found; ++i) {
      if (extra[i] < row_.columns) tokens_[count++] = extra[i];
    }
    return count;
  }

  void cut_by_count(PickCut& cut) {
    int64_t above = 0;
    uint64_t mass = 0;
    int bucket = 0;
    for (; bucket < kWeightBuckets - 1; ++bucket) {
      if (above + histogram_.count[bucket] >= params_.top_k) break;
      above += histogram_.count[bucket];
      mass += histogram_.mass[bucket];
    }
    const int64_t count = collect(bucket);
    kept_ = params_.top_k - above;
    CONVOKE_CHECK(0 < kept_ && kept_ <= count);
    const auto order = [this](int32_t a, int32_t b) { return before(a, b); };
    std::nth_element(tokens_, tokens_ + kept_ - 1, tokens_ + count, order);
    cut.token = tokens_[kept_ - 1];
    cut.x = row_[cut.token];
    for (int64_t i = 0; i < kept_; ++i) mass += weight_of(tokens_[i]);
    total_ = mass;
    last_bucket_ = bucket;
  }

  void cut_by_mass(PickCut& cut) {
    const double enough = target(total_);
    uint64_t mass = 0;
    int bucket = 0;
    for (; bucket < last_bucket_; ++bucket) {
      if (double(mass + histogram_.mass[bucket]) >= enough) break;
      mass += histogram_.mass[bucket];
    }
    // In the bucket where top-k ended, tokens_ still begins with the ones it kept.
    const bool shared = by_k_ && bucket == last_bucket_;
    const int64_t count = shared ? kept_ : collect(bucket);
    CONVOKE_CHECK(count > 0);
    std::sort(tokens_, tokens_ + count, [this](int32_t a, int32_t b) { return before(a, b); });
    int64_t last = 0;
    for (; last < count - 1; ++last) {
      mass += weight_of(tokens_[last]);
      if (double(mass) >= enough) break;
    }
    cut.token = tokens_[last];
    cut.x = row_[cut.token];
  }

  const PickKernels& kernels_;
  const ScaledRow& row_;
  const PickRow& params_;
  int32_t* tokens_;  ///< columns of the bucket looked at last
  bool by_k_ = false;
  bool by_p_ = false;
  uint64_t total_ = 0;   ///< weight of what top-k left
  int last_bucket_ = 0;  ///< the bucket in which top-k's border lies
  int64_t kept_ = 0;     ///< how many of that bucket top-k keeps
  WeightHistogram histogram_;
};

}  // namespace

PickCut find_cut(const PickKernels& kernels, const ScaledRow& row, const PickRow& params,
                 int32_t* tokens) {
  return CutFinder(kernels, row, params, tokens).find();
}

}  // namespace convoke::cpu
