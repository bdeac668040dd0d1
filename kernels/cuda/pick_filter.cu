// Picks with top-k, top-p or min-p: a cluster of blocks per row (or one block), which leaves at
// once where the row has no filter.
//
// The tokens of a row have an order: by descending x, ties by ascending id. A filter by count or by
// mass keeps a beginning of it, and the border is found digit by digit: first the bucket of the
// distance from the maximum (as the CPU files them), then eight bits at a time of x and of the id,
// among the tokens that agree in all digits before. Counts and masses are integers, so their sums
// over threads and blocks have no order.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/pick.cuh"

namespace convoke::cuda {
namespace {

using namespace pick_core;
using Mass = unsigned long long;

constexpr int kIdBits = 24;  // kMaxFilterVocabulary fits
constexpr int kKeyBits = 32 + kIdBits;
constexpr int kDigitBits = 8;
static_assert(kMaxFilterVocabulary <= int64_t(1) << kIdBits);

/// Ascending in the order of tokens.
__device__ __forceinline__ uint64_t key_of(float x, int64_t column) {
  const uint32_t bits = ScalarLanes::bits(x + 0.0f);  // -0 becomes 0: they are equal
  const uint32_t ascending = (bits >> 31) != 0 ? ~bits : bits | 0x80000000u;
  return uint64_t(~ascending) << kIdBits | uint64_t(column);
}

__device__ __forceinline__ int bucket_of(float distance) {
  const float scaled = distance * kBucketsPerUnit;
  return int(scaled < float(kWeightBuckets - 1) ? scaled : float(kWeightBuckets - 1));
}

/// A beginning of the order: all buckets before `bucket`, and of that one the keys whose upper part
/// (key >> shift) is at most `prefix`.
struct Border {
  int bucket = kWeightBuckets;
  int shift = 0;
  uint64_t prefix = 0;

  __device__ __forceinline__ bool keeps(int its_bucket, uint64_t key) const {
    return its_bucket < bucket || (its_bucket == bucket && key >> shift <= prefix);
  }
};

/// What is enough: so many tokens, or so much mass.
struct Enough {
  bool by_mass;
  uint64_t count;
  double mass;

  __device__ __forceinline__ bool operator()(uint64_t kept_count, Mass kept_mass) const {
    return by_mass ? double(kept_mass) >= mass : kept_count >= count;
  }
};

struct Shared {
  Mass mass[kWeightBuckets];
  unsigned count[kWeightBuckets];
  Mass all_mass[kWeightBuckets];  ///< of all blocks
  unsigned all_count[kWeightBuckets];
  float largest[kPickWarps];
  Best best[kPickWarps];
  float block_largest;
  Best block_best;
  // What one thread finds for the block.
  int digit;
  uint64_t count_before;
  Mass mass_before;
  Mass total;
  float reach;
};

class Filter {
 public:
  __device__ __forceinline__ Filter(Shared& shared, const RowTeam& team, const float* x,
                                    int64_t columns, float maximum)
      : shared_(shared), team_(team), x_(x), columns_(columns), maximum_(maximum) {}

  __device__ __forceinline__ float distance(float x) const { return weight_distance(x, maximum_); }

  /// The shortest beginning of the order that is enough. `enough` gets the mass of the whole row.
  /// Returns the mass of what is kept.
  template <typename MakeEnough>
  __device__ Mass find(Border& border, MakeEnough make_enough) {
    Border found;
    file(kWeightBuckets, [&](float d, uint64_t) { return bucket_of(d); });
    const Enough enough = make_enough(add_up(kWeightBuckets));
    uint64_t count = 0;
    Mass mass = 0;
    found.bucket = step(kWeightBuckets, enough, count, mass);
    found.shift = kKeyBits;
    found.prefix = 0;
    int last = found.bucket;
    while (found.shift > 0 && shared_.all_count[last] > 1 &&
           !(!enough.by_mass && count + shared_.all_count[last] == enough.count)) {
      const int shift = found.shift - kDigitBits;
      __syncthreads();  // everybody has looked at the counts
      file(1 << kDigitBits, [&](float d, uint64_t key) {
        const bool inside =
            bucket_of(d) == found.bucket && key >> (shift + kDigitBits) == found.prefix;
        return inside ? int(key >> shift & ((1 << kDigitBits) - 1)) : -1;
      });
      add_up(1 << kDigitBits);
      last = step(1 << kDigitBits, enough, count, mass);
      found.shift = shift;
      found.prefix = found.prefix << kDigitBits | uint64_t(last);
    }
    border = found;
    mass += shared_.all_mass[last];
    __syncthreads();
    return mass;
  }

 private:
  /// Counts and weighs this block's tokens by the digit that `digit` gives them; -1: not at all.
  template <typename Digit>
  __device__ __forceinline__ void file(int digits, Digit digit) {
    for (int i = int(threadIdx.x); i < digits; i += kPickThreads) {
      shared_.mass[i] = 0;
      shared_.count[i] = 0;
    }
    __syncthreads();
    team_.for_columns(columns_, [&](int64_t c) {
      for (int64_t i = c; i < c + kFour && i < columns_; ++i) {
        const float d = distance(x_[i]);
        const int at = digit(d, key_of(x_[i], i));
        if (at < 0) continue;
        atomicAdd(&shared_.count[at], 1u);
        atomicAdd(&shared_.mass[at], Mass(weight(d)));
      }
    });
  }

  /// Sums over the blocks of the team into all_*; returns the mass of everything.
  __device__ __forceinline__ Mass add_up(int digits) {
    cluster_sync();
    for (int i = int(threadIdx.x); i < digits; i += kPickThreads) {
      Mass mass = 0;
      unsigned count = 0;
      for (int b = 0; b < team_.size; ++b) {
        mass += *in_block(&shared_.mass[i], unsigned(b));
        count += *in_block(&shared_.count[i], unsigned(b));
      }
      shared_.all_mass[i] = mass;
      shared_.all_count[i] = count;
    }
    if (threadIdx.x == 0) shared_.total = 0;
    cluster_sync();
    Mass part = 0;
    for (int i = int(threadIdx.x); i < digits; i += kPickThreads) part += shared_.all_mass[i];
    atomicAdd(&shared_.total, part);
    __syncthreads();
    return shared_.total;
  }

  /// The first digit with which it is enough (else the last that has tokens); `count` and `mass`,
  /// of what is kept before all these digits, go up to it.
  __device__ __forceinline__ int step(int digits, const Enough& enough, uint64_t& count,
                                      Mass& mass) {
    if (warp_index() == 0) {
      // Each lane sums its stretch; the stretches before it give it a start.
      const int lane = lane_index(), stretch = digits / kWarp, begin = lane * stretch;
      Mass my_mass = 0;
      unsigned long long my_count = 0;
      for (int i = begin; i < begin + stretch; ++i) {
        my_mass += shared_.all_mass[i];
        my_count += shared_.all_count[i];
      }
      Mass mass_to = my_mass;
      unsigned long long count_to = my_count;
      for (int lanes = 1; lanes < kWarp; lanes *= 2) {
        const Mass m = __shfl_up_sync(kAllLanes, mass_to, lanes);
        const unsigned long long c = __shfl_up_sync(kAllLanes, count_to, lanes);
        if (lane >= lanes) mass_to += m, count_to += c;
      }
      const bool has = my_count > 0 && enough(count + count_to, mass + mass_to);
      const uint32_t with = __ballot_sync(kAllLanes, has);
      const uint32_t filled = __ballot_sync(kAllLanes, my_count > 0);
      const int chosen = with != 0 ? __ffs(int(with)) - 1 : last_bit(filled);
      if (lane == chosen) {
        uint64_t before_count = count + count_to - my_count;
        Mass before_mass = mass + mass_to - my_mass;
        int found = begin;
        for (int i = begin; i < begin + stretch; ++i) {
          if (shared_.all_count[i] == 0) continue;
          found = i;
          if (enough(before_count + shared_.all_count[i], before_mass + shared_.all_mass[i])) break;
          before_count += shared_.all_count[i];
          before_mass += shared_.all_mass[i];
        }
        shared_.digit = found;
        shared_.count_before = before_count;
        shared_.mass_before = before_mass;
      }
    }
    __syncthreads();
    count = shared_.count_before;
    mass = shared_.mass_before;
    return shared_.digit;
  }

  __device__ __forceinline__ static int last_bit(uint32_t bits) {
    int last = 0;
    for (int i = 0; i < kWarp; ++i) {
      if ((bits >> i & 1) != 0) last = i;
    }
    return last;
  }

  Shared& shared_;
  const RowTeam& team_;
  const float* x_;
  int64_t columns_;
  float maximum_;
};

/// A team per row.
__global__ void __launch_bounds__(kPickThreads) filter_kernel(FullPickJob job) {
  const int r = int(blockIdx.y);
  const PickRow params = job.params[r];
  if (!has_filters(params, job.columns)) return;
  CONVOKE_SHARED(Shared, shared);
  const RowTeam team;
  const LogitRow row(job.logits + r * job.stride, job.columns, 0, nullptr, params);
  float* const x = job.scratch + r * job.scratch_stride;
  float largest = -INFINITY;
  team.for_columns(job.columns, [&](int64_t c) {
    float four[kFour];
    row.scaled(c, four);
#pragma unroll
    for (int i = 0; i < kFour; ++i) {
      if (c + i >= job.columns) continue;
      x[c + i] = four[i];  // read back by this thread alone
      largest = LargestOf()(largest, four[i]);
    }
  });
  largest = block_reduce(largest, shared.largest, LargestOf());
  largest = team.reduce(largest, shared.block_largest, LargestOf());
  if (largest == -INFINITY) {  // every token is banned
    if (team.rank == 0 && threadIdx.x == 0) job.picks[r].score = -INFINITY, job.picks[r].token = 0;
    return;
  }

  Filter filter(shared, team, x, job.columns, largest);
  Border border;
  Mass kept = 0;
  const bool by_count = params.top_k > 0 && params.top_k < job.columns;
  if (by_count) {
    kept = filter.find(border, [&](Mass) { return Enough{false, uint64_t(params.top_k), 0}; });
  }
  if (params.top_p < 1.0f) {
    filter.find(border, [&](Mass total) {
      return Enough{true, 0, double(params.top_p) * double(by_count ? kept : total)};
    });
  }
  if (threadIdx.x == 0) {
    shared.reach = params.min_p > 0 ? min_p_reach(params.min_p) : INFINITY;
  }
  __syncthreads();

  Best best = none();
  team.for_columns(job.columns, [&](int64_t c) {
    bool keep[kFour], any = false;
    for (int i = 0; i < kFour; ++i) {
      keep[i] = false;
      if (c + i >= job.columns || x[c + i] == -INFINITY) continue;
      const float d = filter.distance(x[c + i]);
      keep[i] = border.keeps(bucket_of(d), key_of(x[c + i], c + i)) && d <= shared.reach;
      any |= keep[i];
    }
    if (!any) return;
    float g[kFour];
    row.noise(c, g);
    for (int i = 0; i < kFour; ++i) {
      if (keep[i]) best = better_of(best, {x[c + i] + g[i], int32_t(c + i)});
    }
  });
  best = block_reduce(best, shared.best, BestOf());
  best = team.reduce(best, shared.block_best, BestOf());
  if (team.rank == 0 && threadIdx.x == 0) {
    job.picks[r].score = best.score;
    job.picks[r].token = best.token;
  }
}

}  // namespace

void pick_filtered(const CudaStream& stream, const FullPickJob& job, int rows) {
  const int team = row_team_size(stream);
  launch(stream, {dim3(unsigned(team), unsigned(rows)), kPickThreads, 0, team}, filter_kernel, job);
}

}  // namespace convoke::cuda
