// The emulation of tests/support/cuda_emulation: that it computes what CUDA says, and that it finds
// the mistakes it is there to find.
#include <gtest/gtest.h>

#include <array>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cuda/device.cuh"

namespace convoke::cuda {
namespace {

using emulation::Schedule;

const CudaStream kStream;

void run(const LaunchShape& shape, void (*kernel)(int*), int* data) {
  launch(kStream, shape, kernel, data);
}

/// What a kernel leaves in `size` integers under a schedule.
std::vector<int> result(Schedule schedule, const LaunchShape& shape, void (*kernel)(int*),
                        size_t size, uint64_t seed = 1) {
  std::vector<int> data(size, -1);
  emulation::set_schedule(schedule, seed);
  run(shape, kernel, data.data());
  emulation::set_schedule(Schedule::kInOrder);
  return data;
}

template <bool kBarrier>
void reverse_block(int* data) {
  struct Values {
    int at[128];
  };
  CONVOKE_SHARED(Values, values);
  values.at[threadIdx.x] = int(threadIdx.x + 1000 * blockIdx.x);
  if constexpr (kBarrier) __syncthreads();
  data[blockIdx.x * 128 + threadIdx.x] = values.at[127 - threadIdx.x];
}

TEST(CudaEmulation, BarriersOrderSharedMemory) {
  for (const Schedule schedule : emulation::kSchedules) {
    const auto data = result(schedule, {3, 128}, reverse_block<true>, 3 * 128);
    for (int i = 0; i < 3 * 128; ++i) EXPECT_EQ(data[size_t(i)], 127 - i % 128 + 1000 * (i / 128));
  }
}

TEST(CudaEmulation, AMissingBarrierShowsAsPoisonAndAsDifferences) {
  const auto forward = result(Schedule::kInOrder, {1, 128}, reverse_block<false>, 128);
  const auto backward = result(Schedule::kReversed, {1, 128}, reverse_block<false>, 128);
  EXPECT_EQ(forward[0], -1) << "thread 0 read what thread 127 had not written";
  EXPECT_EQ(backward[127], -1);
  EXPECT_NE(forward, backward);
  EXPECT_NE(result(Schedule::kRandom, {1, 128}, reverse_block<false>, 128, 1),
            result(Schedule::kRandom, {1, 128}, reverse_block<false>, 128, 2));
}

/// A total that is read and then used again; without the barrier between, a warp that runs ahead
/// writes what others have yet to read.
template <bool kBarrier>
void reuse_totals(int* data) {
  struct Totals {
    int of_warp[4];
  };
  CONVOKE_SHARED(Totals, totals);
  for (int round = 0; round < 3; ++round) {
    if constexpr (kBarrier) __syncthreads();
    __syncwarp();
    if (lane_index() == 0) totals.of_warp[warp_index()] = round;
    __syncthreads();
    data[threadIdx.x] = data[threadIdx.x] * 10 + totals.of_warp[0] + totals.of_warp[3];
  }
}

TEST(CudaEmulation, AWarpThatRunsAheadShowsMissingBarriersBeforeReuse) {
  for (const Schedule schedule : emulation::kSchedules) {
    const auto data = result(schedule, {1, 128}, reuse_totals<true>, 128);
    EXPECT_EQ(data, std::vector(128, -1000 + 24));
  }
  EXPECT_NE(result(Schedule::kAhead, {1, 128}, reuse_totals<false>, 128), std::vector(128, -976));
  EXPECT_NE(result(Schedule::kAheadReversed, {1, 128}, reuse_totals<false>, 128),
            std::vector(128, -976));
}

void poison_probe(int* data) {
  CONVOKE_SHARED(int, fixed);
  CONVOKE_DYNAMIC_SHARED(dynamic);
  if (threadIdx.x == 0) {
    int first;
    std::memcpy(&first, dynamic, sizeof first);
    data[blockIdx.x] = fixed == -1 && first == -1;
    std::memset(dynamic, 0, 64);
    fixed = 0;
  }
}

TEST(CudaEmulation, SharedMemoryIsPoisonedForEveryBlock) {
  EXPECT_EQ(result(Schedule::kInOrder, {3, 32, 64}, poison_probe, 3), (std::vector{1, 1, 1}));
}

void early_return(int* data) {
  if (threadIdx.x >= 40) return;
  __syncthreads();
  data[threadIdx.x] = 1;
}

TEST(CudaEmulation, ThreadsThatHaveEndedAreNotWaitedFor) {
  const auto data = result(Schedule::kReversed, {1, 64}, early_return, 64);
  EXPECT_EQ(std::accumulate(data.begin(), data.end(), 0), 40 - 24);
}

void divergent_barrier(int*) {
  if (threadIdx.x < 32) {
    __syncthreads();
  } else {
    __syncthreads();
  }
}
void barrier_against_warp(int*) {
  if (threadIdx.x == 3) {
    __syncthreads();
  } else {
    __syncwarp();
  }
}
void lane_that_left(int*) {
  if (threadIdx.x == 3) return;
  __syncwarp();
}
void masks_that_disagree(int*) {
  const uint32_t mask = threadIdx.x < 16 ? 0xffffu : 0xffffffffu;
  __syncwarp(mask);
}
void kinds_that_disagree(int* data) {
  if (threadIdx.x % 2 == 0) {
    data[0] = __shfl_sync(kAllLanes, 1, 0);
  } else {
    data[0] = __shfl_xor_sync(kAllLanes, 1, 1);
  }
}
void outside_own_mask(int*) {
  __syncwarp(0xff);
}
void cluster_half(int*) {
  if (blockIdx.x == 0) {
    cluster_sync();
  } else {
    __syncthreads();
    cluster_sync();
  }
}

TEST(CudaEmulationDeathTest, MistakesEndTheProcessWithAMessage) {
  int data[64] = {};
  EXPECT_DEATH(run({1, 64}, divergent_barrier, data), "divergent barrier: thread");
  EXPECT_DEATH(run({1, 32}, barrier_against_warp, data),
               "deadlock: 32 threads(.|\n)*__syncwarp at");
  EXPECT_DEATH(run({1, 32}, lane_that_left, data), "deadlock: 31 threads");
  EXPECT_DEATH(run({1, 32}, masks_that_disagree, data), "deadlock: 16 threads");
  EXPECT_DEATH(run({1, 32}, kinds_that_disagree, data),
               "__shfl_sync(.|\n)*comes to __shfl_xor_sync");
  EXPECT_DEATH(run({1, 32}, outside_own_mask, data), "not in its own mask");
  EXPECT_DEATH(run({2, 32, 0, 2}, cluster_half, data), "divergent barrier");
  EXPECT_DEATH(run({3, 32, 0, 2}, early_return, data), "do not divide a grid of 3");
  EXPECT_DEATH(run({1, 2048}, early_return, data), "a block of 2048 threads");
}

template <int kWaits>
void copy_in(int* data) {
  CONVOKE_DYNAMIC_SHARED(bytes);
  auto* const values = reinterpret_cast<int*>(bytes);
  copy_async(values + 4 * threadIdx.x, data + 4 * threadIdx.x);
  commit_copies();
  copy_async(values + 128 + 4 * threadIdx.x, data + 4 * threadIdx.x, 8);
  commit_copies();
  if constexpr (kWaits == 1) wait_copies<1>();
  if constexpr (kWaits == 2) wait_copies<0>();
  for (int i = 0; i < 4; ++i) {
    data[128 + 4 * threadIdx.x + unsigned(i)] = values[4 * threadIdx.x + unsigned(i)];
    data[256 + 4 * threadIdx.x + unsigned(i)] = values[128 + 4 * threadIdx.x + unsigned(i)];
  }
  if constexpr (kWaits == 1) wait_copies<0>();
}

TEST(CudaEmulation, AsynchronousCopiesTakeEffectAtTheirWait) {
  std::vector<int> data(384, 0);
  std::iota(data.begin(), data.begin() + 128, 5);
  auto lost = data;
  run({1, 32, 1024}, copy_in<2>, data.data());
  run({1, 32, 1024}, copy_in<1>, lost.data());
  for (int i = 0; i < 128; ++i) {
    EXPECT_EQ(data[size_t(128 + i)], 5 + i);
    EXPECT_EQ(data[size_t(256 + i)], i % 4 < 2 ? 5 + i : 0);
    EXPECT_EQ(lost[size_t(128 + i)], 5 + i);
    EXPECT_EQ(lost[size_t(256 + i)], -1) << "a copy was there before its wait";
  }
}

TEST(CudaEmulationDeathTest, ACopyNobodyWaitedForIsFound) {
  std::vector<int> data(384, 0);
  EXPECT_DEATH(run({1, 32, 1024}, copy_in<0>, data.data()), "never waited for its asynchronous");
}

void lanes(int* data) {
  const int lane = lane_index();
  data[lane] = __shfl_xor_sync(kAllLanes, lane, 5);
  data[32 + lane] = __shfl_sync(kAllLanes, 10 * lane, 7);
  data[64 + lane] = __shfl_up_sync(kAllLanes, lane, 3);
  data[96 + lane] = int(__ballot_sync(kAllLanes, lane % 3 == 0));
  data[128 + lane] = __any_sync(kAllLanes, lane == 31) && !__all_sync(kAllLanes, lane == 31);
  if (lane < 8) data[160 + lane] = __shfl_xor_sync(0xffu, lane, 1);
  data[192 + lane] = int(warp_sum(float(lane)) + warp_max(float(-lane)));
}

TEST(CudaEmulation, LanesExchangeAndVote) {
  for (const Schedule schedule : emulation::kSchedules) {
    const auto data = result(schedule, {1, 32}, lanes, 224);
    int thirds = 0;
    for (int i = 0; i < 32; i += 3) thirds |= 1 << i;
    for (int i = 0; i < 32; ++i) {
      EXPECT_EQ(data[size_t(i)], i ^ 5);
      EXPECT_EQ(data[size_t(32 + i)], 70);
      EXPECT_EQ(data[size_t(64 + i)], i < 3 ? i : i - 3);
      EXPECT_EQ(data[size_t(96 + i)], thirds);
      EXPECT_EQ(data[size_t(128 + i)], 1);
      EXPECT_EQ(data[size_t(160 + i)], i < 8 ? i ^ 1 : -1);
      EXPECT_EQ(data[size_t(192 + i)], 31 * 16);
    }
  }
}

void ring(int* data) {
  CONVOKE_SHARED(int, mine);
  if (threadIdx.x == 0) mine = int(100 + cluster_rank());
  cluster_sync();
  const unsigned next = (cluster_rank() + 1) % 4;
  if (threadIdx.x == 1) data[blockIdx.x] = *in_block(&mine, next);
  cluster_sync();
}

TEST(CudaEmulation, BlocksOfAClusterSeeEachOthersSharedMemory) {
  for (const Schedule schedule : emulation::kSchedules) {
    EXPECT_EQ(result(schedule, {8, 32, 0, 4}, ring, 8),
              (std::vector{101, 102, 103, 100, 101, 102, 103, 100}));
  }
}

void count_up(int* data) {
  atomicAdd(data, 1);
  atomicMax(data + 1, int(blockIdx.y * 10 + threadIdx.y));
}

TEST(CudaEmulation, GridsAndBlocksHaveAllTheirThreads) {
  std::vector<int> data(2, 0);
  run({dim3(2, 3, 4), dim3(5, 6, 7)}, count_up, data.data());
  EXPECT_EQ(data, (std::vector{2 * 3 * 4 * 5 * 6 * 7, 25}));
}

template <typename T>
struct Tile {
  T a[16][16];  ///< row, k
  T b[16][8];   ///< k, column
  float c[16][8];
};

/// One product as a kernel does it, with B once from column-major and once from row-major memory.
template <typename T>
void multiply_tile(Tile<T>* tile, float* out) {
  struct Shared {
    alignas(16) T a[16][16];
    alignas(16) T columns[8][16];
    alignas(16) T rows[16][8];
  };
  CONVOKE_SHARED(Shared, shared);
  const int lane = lane_index(), g = lane / 4, t = lane % 4;
  for (int i = lane; i < 256; i += kWarp) shared.a[i / 16][i % 16] = tile->a[i / 16][i % 16];
  for (int i = lane; i < 128; i += kWarp) {
    shared.columns[i % 8][i / 8] = tile->b[i / 8][i % 8];
    shared.rows[i / 8][i % 8] = tile->b[i / 8][i % 8];
  }
  __syncwarp();
  uint32_t a[4], columns[4], rows[4];
  load_matrix_x4(a, &shared.a[lane % 16][lane / 16 * 8]);
  load_matrix_x4(columns, &shared.columns[lane % 8][lane / 8 % 2 * 8]);
  load_matrix_x4_transposed(rows, &shared.rows[lane % 16][0]);
  float c[4];
  for (int i = 0; i < 4; ++i) c[i] = tile->c[g + i / 2 * 8][2 * t + i % 2];
  const uint32_t b[2] = {columns[0], columns[1]};
  mma_16x8x16<T>(c, a, b);
  for (int i = 0; i < 4; ++i) {
    out[(g + i / 2 * 8) * 8 + 2 * t + i % 2] =
        rows[0] == b[0] && rows[1] == b[1] ? c[i] : -12345.0f;
  }
}

template <typename T>
void check_tiles() {
  std::mt19937 random(3);
  for (int trial = 0; trial < 20; ++trial) {
    Tile<T> tile;
    const auto small = [&] { return float(int(random() % 17) - 8); };
    for (auto& row : tile.a) {
      for (T& x : row) assign(x, small());
    }
    for (auto& row : tile.b) {
      for (T& x : row) assign(x, small());
    }
    for (auto& row : tile.c) {
      for (float& x : row) x = 1000 * small();
    }
    float out[128];
    launch(kStream, {1, 32}, multiply_tile<T>, &tile, static_cast<float*>(out));
    for (int m = 0; m < 16; ++m) {
      for (int n = 0; n < 8; ++n) {
        float want = tile.c[m][n];
        for (int k = 0; k < 16; ++k) want += to_float(tile.a[m][k]) * to_float(tile.b[k][n]);
        ASSERT_EQ(out[m * 8 + n], want) << m << " " << n;
      }
    }
  }
}

TEST(CudaEmulation, TensorCoresMultiplyIntegersExactly) {
  check_tiles<BFloat16>();
  check_tiles<Float16>();
}

// --- Grids that wait for others ---

/// Raises its own flag, waits for the other's, and reads what stands behind it; block by block.
__global__ void meet_kernel(uint64_t* mine, const uint64_t* theirs, int* own_value,
                            const int* their_value, int* out) {
  if (threadIdx.x == 0) {
    own_value[blockIdx.x] += 10;
    store_release_system(&mine[blockIdx.x], 1);
    while (load_acquire_system(&theirs[blockIdx.x]) < 1) pause();
  }
  __syncthreads();
  out[blockIdx.x * 4 + threadIdx.x] = their_value[blockIdx.x] + int(threadIdx.x);
}

TEST(CudaEmulation, GridsThatRunTogetherWaitForEachOther) {
  for (const auto schedule : emulation::kSchedules) {
    emulation::set_schedule(schedule, 2);
    uint64_t flags[2][3] = {};
    int values[2][3] = {{1, 2, 3}, {4, 5, 6}}, out[2][12] = {};
    const emulation::Shape shape = {.grid = 3, .block = 4, .resident = true};
    const auto grid = [&](int g) {
      return emulation::make_resident(
          shape, [&, g] { meet_kernel(flags[g], flags[1 - g], values[g], values[1 - g], out[g]); });
    };
    const auto first = grid(0), second = grid(1);
    EXPECT_FALSE(emulation::advance(*first)) << "the other has not begun";
    EXPECT_FALSE(emulation::advance(*first));
    EXPECT_TRUE(emulation::advance(*second));
    EXPECT_TRUE(emulation::advance(*first));
    for (int i = 0; i < 12; ++i) {
      EXPECT_EQ(out[0][i], 14 + i / 4 + i % 4);
      EXPECT_EQ(out[1][i], 11 + i / 4 + i % 4);
    }
  }
  emulation::set_schedule(emulation::Schedule::kInOrder);
}

TEST(CudaEmulationDeathTest, BlocksThatDoNotRunTogetherMustNotWait) {
  uint64_t flags[2] = {};
  int values[2] = {}, out[4];
  EXPECT_DEATH(launch(kStream, {1, 4}, meet_kernel, &flags[0], &flags[1], &values[0], &values[1],
                      static_cast<int*>(out)),
               "its grid does not run together");
}

}  // namespace
}  // namespace convoke::cuda
