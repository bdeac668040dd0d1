// Sums over ranks by themselves: contributions in one memory, and the exchange of contributions
// between ranks that share a device.
#include <chrono>
#include <thread>

#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {
namespace {

/// Numbers of many sizes, so that another order of their sum has other bits.
std::vector<float> numbers(int64_t count, uint32_t seed) {
  Normal random(seed);
  std::vector<float> values(size_t(count), 0.0f);
  for (float& v : values) v = std::ldexp(random(), random.below(20) - 10);
  return values;
}

/// ((r0 + r1) + (r2 + r3)) + ...
float tree(std::vector<float> values) {
  for (; values.size() > 1; values.resize(values.size() / 2)) {
    for (size_t i = 0; i < values.size() / 2; ++i) values[i] = values[2 * i] + values[2 * i + 1];
  }
  return values[0];
}

testing::AssertionResult equal_bits(const std::vector<float>& a, const std::vector<float>& b) {
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::bit_cast<uint32_t>(a[i]) == std::bit_cast<uint32_t>(b[i])) continue;
    return testing::AssertionFailure() << "element " << i << ": " << a[i] << " and " << b[i];
  }
  return testing::AssertionSuccess();
}

TEST(CudaSums, RanksAreAddedAsATree) {
  for (const int ranks : {1, 2, 4, 8}) {
    for (const int64_t count : {1, 31, 256, 1000, 70001}) {
      if (kSanitized && count > 1000) continue;
      for (const bool add : {false, true}) {
        SCOPED_TRACE(testing::Message() << ranks << " ranks, " << count << ", add " << add);
        const int64_t stride = count + 3;
        std::vector<float> parts = numbers(stride * ranks, uint32_t(count + ranks));
        std::vector<float> target = numbers(count, 5), want = target;
        for (int64_t i = 0; i < count; ++i) {
          std::vector<float> column;
          for (int r = 0; r < ranks; ++r) column.push_back(parts[size_t(r * stride + i)]);
          const float sum = tree(column);
          want[size_t(i)] = add ? want[size_t(i)] + sum : sum;
        }
        // What was there is not read where it is not added to.
        if (!add) target.assign(size_t(count), kNan);
        on_device::rank_sum(parts, stride, ranks, target, add);
        ASSERT_TRUE(equal_bits(target, want));
      }
    }
  }
}

// --- Ranks that exchange ---

struct SumShape {
  int64_t rows, columns;
  DType dtype = DType::kFloat32;
  bool bias = false, norm = false;
};

/// Ranks whose regions lie on one device and whose kernels run at once, each in a stream of its
/// own.
class OneShotRanks {
 public:
  OneShotRanks(int ranks, int64_t capacity, int blocks)
      : abort_(static_cast<uint32_t*>(allocate_mapped(sizeof(uint32_t), "a test"))) {
    *abort_ = 0;
    for (int r = 0; r < ranks; ++r) {
      regions_.push_back(filled_memory(exchange_bytes(ranks, capacity), 0));
      streams_.push_back(create_stream());
    }
    peers_.capacity = capacity, peers_.ranks = ranks, peers_.blocks = blocks;
    peers_.abort = abort_;
    for (int r = 0; r < ranks; ++r) {
      peers_.regions[r] = static_cast<std::byte*>(regions_[size_t(r)].data());
    }
  }
  ~OneShotRanks() {
    for (CUstream_st* stream : streams_) destroy_stream(stream);
    free_mapped(abort_);
  }

  int size() const { return peers_.ranks; }
  void enqueue(int rank, const OneShotSum& sum) {
    PeerRegions peers = peers_;
    peers.rank = rank;
    one_shot_sum({streams_[size_t(rank)]}, peers, sum);
  }
  /// Whether all that was enqueued ends by then.
  bool ends_within(std::chrono::milliseconds time) {
    const auto end = std::chrono::steady_clock::now() + time;
    while (std::chrono::steady_clock::now() < end) {
      bool done = true;
      for (CUstream_st* stream : streams_) done &= is_done(stream);  // asks all: it sets them off
      if (done) return true;
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    return false;
  }
  void abort() { *static_cast<volatile uint32_t*>(abort_) = 1; }
  /// Waits for all of them. Kernels that wait for one that does not run are ended after a while.
  testing::AssertionResult finish() {
    const bool met = ends_within(std::chrono::seconds(kSanitized ? 300 : 60));
    if (!met) abort();
    for (CUstream_st* stream : streams_) synchronise(stream);
    if (met) return testing::AssertionSuccess();
    return testing::AssertionFailure() << "the kernels of the ranks did not meet";
  }

 private:
  uint32_t* abort_;
  std::vector<DeviceBuffer> regions_;
  std::vector<CUstream_st*> streams_;
  PeerRegions peers_;
};

/// One sum on all ranks, and by the kernels that it stands for.
struct ExchangedSum {
  ExchangedSum(int ranks, const SumShape& sum_shape, uint32_t seed)
      : shape(sum_shape),
        bias(numbers(shape.columns, seed + 20)),
        weight(numbers(shape.columns, seed + 21)) {
    const int64_t count = shape.rows * shape.columns;
    const std::vector<float> start = numbers(count, seed + 22);
    std::vector<float> all;
    for (int r = 0; r < ranks; ++r) {
      const std::vector<float> mine = numbers(count, seed + uint32_t(r));
      all.insert(all.end(), mine.begin(), mine.end());
      contributions.emplace_back(mine);
      targets.emplace_back(start);
      normalised.push_back(filled_memory(normalised_bytes()));
    }
    want = start;
    on_device::rank_sum(all, count, ranks, want, true);
    const TensorView x =
        TensorView::matrix(want.data(), DType::kFloat32, shape.rows, shape.columns);
    if (shape.bias) on_device::add_bias(x, bias.read().data());
    if (!shape.norm) return;
    want_normalised.resize(normalised_bytes());
    on_device::rms_norm(
        {x, weight.read().data(), 1e-5f, normalised_view(want_normalised.data()), {}});
  }
  OneShotSum on(int rank) {
    OneShotSum sum;
    sum.mine = contributions[size_t(rank)].data(), sum.target = targets[size_t(rank)].data();
    sum.rows = shape.rows, sum.columns = shape.columns;
    if (shape.bias) sum.bias = bias.data();
    if (!shape.norm) return sum;
    sum.norm_weight = weight.data(), sum.norm_epsilon = 1e-5f;
    sum.normalised = normalised_view(normalised[size_t(rank)].data());
    return sum;
  }
  void expect_summed() const {
    for (size_t r = 0; r < targets.size(); ++r) {
      ASSERT_TRUE(equal_bits(targets[r].read(), want)) << "rank " << r;
      if (!shape.norm) continue;
      const auto* const there = static_cast<const std::byte*>(normalised[r].data());
      ASSERT_EQ(read_back(there, want_normalised.size()), want_normalised) << "rank " << r;
    }
  }

  SumShape shape;
  DeviceArray<float> bias, weight;
  std::vector<DeviceArray<float>> contributions, targets;
  std::vector<DeviceBuffer> normalised;
  std::vector<float> want;
  std::vector<std::byte> want_normalised;

 private:
  size_t normalised_bytes() const {
    return shape.norm ? size_t(shape.rows * shape.columns) * dtype_size(shape.dtype) : 0;
  }
  TensorView normalised_view(void* data) const {
    return TensorView::matrix(data, shape.dtype, shape.rows, shape.columns);
  }
};

TEST(CudaSums, OneKernelHasTheBitsOfTheKernelsItStandsFor) {
  const SumShape shapes[] = {{1, 1},
                             {1, 1000},
                             {3, 37, DType::kFloat32, true},
                             {1, 4097, DType::kBFloat16, true, true},
                             {2, 2052, DType::kFloat16, false, true},
                             {64, 100, DType::kBFloat16, true, true},
                             {9, 300, DType::kFloat32, false, true}};
  for (const int ranks : {2, 4, 8}) {
    OneShotRanks all(ranks, 8192, kOnGpu ? 8 : 4);
    uint32_t seed = 0;
    for (const SumShape& shape : shapes) {
      SCOPED_TRACE(testing::Message()
                   << ranks << " ranks, " << shape.rows << " x " << shape.columns);
      ExchangedSum sum(ranks, shape, ++seed);
      for (int i = 0; i < ranks; ++i) {
        const int r = (i + int(seed)) % ranks;
        all.enqueue(r, sum.on(r));
      }
      ASSERT_TRUE(all.finish());
      ASSERT_NO_FATAL_FAILURE(sum.expect_summed());
    }
  }
}

TEST(CudaSums, ManyExchangesFollowEachOtherWithoutTheHost) {
  // Of changing sizes: a rank may be a whole sum ahead of another, and no more.
  const int ranks = 4, count = kOnGpu ? 400 : 20;
  OneShotRanks all(ranks, 4096, 4);
  std::vector<ExchangedSum> sums;
  for (int i = 0; i < count; ++i) {
    const SumShape shape = {1 + i % 5, 30 + 97 * (i % 7), DType::kBFloat16, i % 2 == 0, i % 3 != 0};
    sums.emplace_back(ranks, shape, uint32_t(40 * i));
  }
  // One by one at first: loading a kernel may wait for those that run, and they wait for others.
  const size_t alone = 6;
  for (size_t i = 0; i < alone; ++i) {
    for (int r = 0; r < ranks; ++r) all.enqueue(r, sums[i].on(r));
    ASSERT_TRUE(all.finish());
  }
  for (int r = 0; r < ranks; ++r) {
    for (size_t i = alone; i < sums.size(); ++i) all.enqueue(r, sums[i].on(r));
  }
  ASSERT_TRUE(all.finish());
  for (const ExchangedSum& sum : sums) ASSERT_NO_FATAL_FAILURE(sum.expect_summed());
}

TEST(CudaSums, AWordOfTheHostEndsAWaitForARankThatDoesNotCome) {
  OneShotRanks all(2, 64, 2);
  ExchangedSum sum(2, {1, 64}, 3);
  all.enqueue(0, sum.on(0));
  EXPECT_FALSE(all.ends_within(std::chrono::milliseconds(100)));
  all.abort();
  EXPECT_TRUE(all.ends_within(std::chrono::seconds(20)));
}

}  // namespace
}  // namespace convoke::cuda
