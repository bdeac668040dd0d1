// Sums over the ranks of a host in one kernel: every rank writes what it contributes into the
// memory of all others, waits until theirs has come, and adds all of it in the one tree of
// collective.cu. Behind it in the same kernel: the bias, and the norm of the row.
//
// Sums are numbered by a counter in device memory which the kernel itself advances, so launches of
// a replayed graph need no argument that changes. Contributions to sum e lie in half e % 2 of each
// region.
//
// Why what is read is what was written (PTX memory model):
//  - Contributions are plain stores by all threads of block b. __syncthreads() orders them before
//    one thread's st.release.sys of e to arrived[rank][b] at the receiver, and release is
//    cumulative. There a thread of block b reads e by ld.acquire.sys, and __syncthreads() orders
//    that before the block's plain loads. Nothing here is read through the read-only cache.
//  - Nothing is overwritten that is still to be read. A rank writes to half e % 2 again in sum
//    e + 2, after its own kernel of e + 1 has ended. That kernel saw an e + 1 of every rank, each
//    released by a kernel that the stream put after the rank's kernel of e, which read the half.
//  - For the same reason arrived[r][b] is never beyond e + 1 while somebody waits for e. It may be
//    e + 1, hence "at least".
//  - Blocks wait for the same block of other ranks, so all blocks of all ranks must run at once:
//    the grid has at most kMostExchangeBlocks small ones, which every device that can have peers
//    holds at once, and what else runs there ends without them. Ranks of one device must be
//    processes, between which the device switches.
//
// A rank that does not come: everyone looks at a word in host memory now and then, which the host
// sets (abort); the kernel ends then, with garbage, and so do those behind it.
#include "kernels/cuda/kernels.h"
#include "kernels/cuda/matmul.cuh"
#include "kernels/cuda/norm.cuh"
#include "kernels/cuda/one_shot.cuh"

namespace convoke::cuda {
namespace {

constexpr int64_t kPartColumns = 1024;  ///< of a row, per block, where rows are few

/// A sum as the kernel has it: rows cut into parts, which blocks take in turns.
struct Exchange {
  PeerRegions peers;
  const float* mine;  ///< [rows][columns], dense, as target
  float* target;
  const float* bias;         ///< or null
  const float* norm_weight;  ///< or null
  void* normalised;
  int64_t normalised_stride;
  int64_t rows, columns;
  int64_t part_columns;  ///< a multiple of 4
  int parts;             ///< of a row; more than one only where every block has at most one
  float epsilon;
  bool vectors;  ///< four floats at a time can be moved
};

__device__ __forceinline__ ExchangeHeader& header_of(const PeerRegions& peers, int rank) {
  return *reinterpret_cast<ExchangeHeader*>(peers.regions[rank]);
}

/// What rank `from` contributes to a sum of this half, in the memory of rank `at`.
__device__ __forceinline__ float* contribution(const PeerRegions& peers, int at, int half,
                                               int from) {
  auto* const first = reinterpret_cast<float*>(peers.regions[at] + kExchangeHeaderBytes);
  return first + (int64_t(half) * peers.ranks + from) * peers.capacity;
}

struct Part {
  int64_t row, begin, end;  ///< floats [begin, end) of the flat array
};

__device__ __forceinline__ Part part_at(const Exchange& x, int64_t index) {
  const int64_t row = index / x.parts, first = index % x.parts * x.part_columns;
  const int64_t last = first + x.part_columns < x.columns ? first + x.part_columns : x.columns;
  return {row, row * x.columns + first, row * x.columns + last};
}

template <int N>
__device__ __forceinline__ void send(const Exchange& x, int half, const Part& part) {
  float* to[N];
#pragma unroll
  for (int r = 0; r < N; ++r) to[r] = contribution(x.peers, r, half, x.peers.rank);
  if (x.vectors) {
    for (int64_t i = part.begin / 4 + threadIdx.x; i < part.end / 4; i += kNormThreads) {
      const float4 value = reinterpret_cast<const float4*>(x.mine)[i];
#pragma unroll
      for (int r = 0; r < N; ++r) {
        if (r != x.peers.rank) reinterpret_cast<float4*>(to[r])[i] = value;
      }
    }
    return;
  }
  for (int64_t i = part.begin + threadIdx.x; i < part.end; i += kNormThreads) {
    const float value = x.mine[i];
#pragma unroll
    for (int r = 0; r < N; ++r) {
      if (r != x.peers.rank) to[r][i] = value;
    }
  }
}

/// False when the host has called it off.
__device__ __forceinline__ bool wait_for(const uint64_t* arrived, uint64_t sum,
                                         const uint32_t* abort) {
  for (int spins = 1; load_acquire_system(arrived) < sum; ++spins) {
    if (spins % kSpinsPerLook == 0 && load_relaxed_system(abort) != 0) return false;
    pause();
  }
  return true;
}

/// target + tree sum, plus the bias: the additions of rank_sum and add_bias.
template <int N>
__device__ __forceinline__ float added(const Exchange& x, float (&v)[N], float before,
                                       int64_t column) {
  const float sum = before + tree_sum(v, N);
  return x.bias != nullptr ? sum + x.bias[column] : sum;
}

template <int N>
__device__ __forceinline__ void add_up(const Exchange& x, int half, const Part& part) {
  const float* from[N];
#pragma unroll
  for (int r = 0; r < N; ++r) {
    from[r] = r == x.peers.rank ? x.mine : contribution(x.peers, x.peers.rank, half, r);
  }
  const int64_t row_begin = part.row * x.columns;
  if (x.vectors) {
    for (int64_t i = part.begin / 4 + threadIdx.x; i < part.end / 4; i += kNormThreads) {
      float4 v[N];
#pragma unroll
      for (int r = 0; r < N; ++r) v[r] = reinterpret_cast<const float4*>(from[r])[i];
      float4 sum = reinterpret_cast<const float4*>(x.target)[i];
      const int64_t column = 4 * i - row_begin;
      float one[N];
#pragma unroll
      for (int r = 0; r < N; ++r) one[r] = v[r].x;
      sum.x = added(x, one, sum.x, column);
#pragma unroll
      for (int r = 0; r < N; ++r) one[r] = v[r].y;
      sum.y = added(x, one, sum.y, column + 1);
#pragma unroll
      for (int r = 0; r < N; ++r) one[r] = v[r].z;
      sum.z = added(x, one, sum.z, column + 2);
#pragma unroll
      for (int r = 0; r < N; ++r) one[r] = v[r].w;
      sum.w = added(x, one, sum.w, column + 3);
      reinterpret_cast<float4*>(x.target)[i] = sum;
    }
    return;
  }
  for (int64_t i = part.begin + threadIdx.x; i < part.end; i += kNormThreads) {
    float v[N];
#pragma unroll
    for (int r = 0; r < N; ++r) v[r] = from[r][i];
    x.target[i] = added(x, v, x.target[i], i - row_begin);
  }
}

/// Whether this block is the last of a row's; all threads get the answer.
__device__ __forceinline__ bool completes_row(const Exchange& x, int64_t row) {
  CONVOKE_SHARED(int, last);
  __syncthreads();
  if (x.parts == 1) return true;
  if (threadIdx.x == 0) {
    uint32_t& parts = header_of(x.peers, x.peers.rank).row_parts[row];
    __threadfence();
    last = atomicAdd(&parts, 1u) + 1 == uint32_t(x.parts) ? 1 : 0;
    if (last != 0) parts = 0;
    __threadfence();
  }
  __syncthreads();
  return last != 0;
}

/// As rms_norm_kernel has it.
template <typename T>
__device__ __forceinline__ void normalise(const Exchange& x, int64_t row) {
  const float* const from = x.target + row * x.columns;
  T* const to = static_cast<T*>(x.normalised) + row * x.normalised_stride;
  const float factor = block_inverse_rms(x.columns, x.epsilon, [&](int64_t i) { return from[i]; });
  for (int64_t i = threadIdx.x; i < x.columns; i += kNormThreads) {
    assign(to[i], from[i] * factor * x.norm_weight[i]);
  }
}

template <int N, typename T>
__global__ void __launch_bounds__(kNormThreads) exchange_kernel(Exchange x) {
  CONVOKE_SHARED(int, missing);
  const int rank = x.peers.rank;
  ExchangeHeader& own = header_of(x.peers, rank);
  const uint64_t sum = own.sums + 1;
  const int half = int(sum % 2);
  const int64_t all = x.rows * x.parts;
  if (threadIdx.x == 0) missing = 0;
  for (int64_t i = blockIdx.x; i < all; i += gridDim.x) send<N>(x, half, part_at(x, i));
  __syncthreads();
  if (threadIdx.x < N && int(threadIdx.x) != rank) {
    const int peer = int(threadIdx.x);
    store_release_system(&header_of(x.peers, peer).arrived[rank][blockIdx.x], sum);
    if (!wait_for(&own.arrived[peer][blockIdx.x], sum, x.peers.abort)) missing = 1;
  }
  __syncthreads();
  for (int64_t i = blockIdx.x; i < all && missing == 0; i += gridDim.x) {
    const Part part = part_at(x, i);
    add_up<N>(x, half, part);
    if (x.norm_weight != nullptr && completes_row(x, part.row)) normalise<T>(x, part.row);
  }
  if (threadIdx.x == 0 && atomicAdd(&own.blocks_done, 1u) + 1 == gridDim.x) {
    own.blocks_done = 0;
    own.sums = sum;
  }
}

template <typename T>
void launch_exchange(const CudaStream& stream, const Exchange& x, int blocks) {
  const LaunchShape shape{.grid = dim3(unsigned(blocks)), .block = kNormThreads, .resident = true};
  if (x.peers.ranks == 2) return launch(stream, shape, exchange_kernel<2, T>, x);
  if (x.peers.ranks == 4) return launch(stream, shape, exchange_kernel<4, T>, x);
  launch(stream, shape, exchange_kernel<8, T>, x);
}

bool aligned(const void* pointer) {
  return reinterpret_cast<uintptr_t>(pointer) % sizeof(float4) == 0;
}

}  // namespace

size_t exchange_bytes(int ranks, int64_t capacity) {
  return kExchangeHeaderBytes + size_t(2 * ranks) * size_t(capacity) * sizeof(float);
}

void one_shot_sum(const CudaStream& stream, const PeerRegions& peers, const OneShotSum& sum) {
  CONVOKE_CHECK(peers.ranks == 2 || peers.ranks == 4 || peers.ranks == 8);
  CONVOKE_CHECK(peers.capacity % 4 == 0 && sum.rows * sum.columns <= peers.capacity);
  CONVOKE_CHECK(1 <= peers.blocks && peers.blocks <= kMostExchangeBlocks);
  if (sum.rows == 0 || sum.columns == 0) return;
  Exchange x = {};
  x.peers = peers;
  x.mine = sum.mine, x.target = sum.target, x.bias = sum.bias;
  x.rows = sum.rows, x.columns = sum.columns;
  x.norm_weight = sum.norm_weight, x.epsilon = sum.norm_epsilon;
  x.vectors = sum.columns % 4 == 0 && aligned(sum.mine) && aligned(sum.target);
  const int64_t most = std::max<int64_t>(1, peers.blocks / sum.rows);
  const int64_t parts = std::min(most, ceil_div(sum.columns, kPartColumns));
  x.part_columns = ceil_div(ceil_div(sum.columns, parts), int64_t(4)) * 4;
  x.parts = int(ceil_div(sum.columns, x.part_columns));
  const int blocks = int(std::min<int64_t>(sum.rows * x.parts, peers.blocks));
  if (sum.norm_weight == nullptr) return launch_exchange<float>(stream, x, blocks);
  const TensorView& y = sum.normalised;
  CONVOKE_CHECK(y.rows == sum.rows && y.cols == sum.columns);
  x.normalised = y.data, x.normalised_stride = y.row_stride;
  with_element(y.dtype,
               [&](auto element) { launch_exchange<decltype(element)>(stream, x, blocks); });
}

}  // namespace convoke::cuda
