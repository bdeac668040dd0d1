// The CUDA execution model on one host thread, for running kernels/cuda/*.cu in tests.
//
// The build gives this header to the compiler in front of each .cu source (-include), so the
// sources see CUDA's own names and kernels/cuda/device.cuh finds CONVOKE_CUDA_EMULATION. Every
// thread of a block is a fiber that runs until it has to wait: at a barrier of the block or the
// cluster, or at an operation of the warp, whose last arrival computes the results of all lanes.
//
// What a GPU would let pass or answer with garbage ends the process with a message here: threads
// that wait for each other for ever, barriers or warp operations that lanes reach at different
// places, masks that disagree, asynchronous copies that nobody waited for. Shared memory is
// poisoned (0xff: NaN) at the start of a block, an asynchronous copy takes effect only at its wait,
// and the order in which threads run can be turned round or shuffled, so a missing barrier shows as
// a result that depends on the order.
//
// A kernel whose blocks run together (Shape::resident) may wait for what other devices do: when all
// of its threads that are left wait, it is laid aside and other streams run.
//
// A kernel that is launched without a stream runs to its end inside launch(), one at a time in a
// process. On a stream of an emulated device (device.h) it runs when somebody waits for the stream.
#pragma once

#define CONVOKE_CUDA_EMULATION 1

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <source_location>
#include <utility>

#define __global__
#define __device__
#define __host__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)

struct CUstream_st;

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x_ = 1, unsigned y_ = 1, unsigned z_ = 1) : x(x_), y(y_), z(z_) {}
};
struct alignas(8) uint2 {
  unsigned x, y;
};
struct alignas(8) float2 {
  float x, y;
};
struct alignas(16) uint4 {
  unsigned x, y, z, w;
};
struct alignas(16) float4 {
  float x, y, z, w;
};

namespace convoke::emulation {

// --- For tests ---

/// In which order ready threads, and the blocks of a grid, run. In order (or reversed) all threads
/// keep abreast, as far as barriers and warp operations let them; ahead, the first warp (or the
/// last) goes as far as it can before another moves.
enum class Schedule { kInOrder, kReversed, kAhead, kAheadReversed, kRandom };
inline constexpr Schedule kSchedules[] = {Schedule::kInOrder, Schedule::kReversed, Schedule::kAhead,
                                          Schedule::kAheadReversed, Schedule::kRandom};
void set_schedule(Schedule schedule, uint64_t seed = 0);

struct Counters {
  uint64_t launches = 0;
  uint64_t blocks = 0;
  uint64_t barriers = 0;
  uint64_t warp_operations = 0;
  uint64_t tensor_core_operations = 0;
};
Counters& counters();

// --- For kernels/cuda/device.cuh ---

struct Shape {
  dim3 grid, block;
  size_t shared_bytes = 0;
  unsigned cluster = 1;  ///< blocks along x that run together and see each other's shared memory
  /// All blocks run together and may wait for other devices. Of a grid along x, without clusters.
  bool resident = false;
};

/// Runs `body(argument)` once per thread of the grid.
void run_grid(const Shape& shape, void (*body)(void*), void* argument);

template <typename... Params, typename... Args>
void launch(const Shape& shape, void (*kernel)(Params...), Args... args) {
  auto call = [&] { kernel(static_cast<Params>(args)...); };
  run_grid(
      shape, [](void* c) { (*static_cast<decltype(call)*>(c))(); }, &call);
}

/// A grid whose blocks run together. advance() takes it as far as it comes without others and says
/// whether it has ended.
class ResidentGrid;
std::shared_ptr<ResidentGrid> make_resident(const Shape& shape, std::function<void()> body);
bool advance(ResidentGrid& grid);

/// Of emulated devices (device.cc): puts work on a stream; ends the process if an argument of a
/// kernel holds an address in host memory.
/// `ready` says whether it can be begun; until then other streams run.
void enqueue(CUstream_st* stream, std::function<void()> work, std::function<bool()> ready = {});
/// Work that may have to wait for others in the middle: until it says that it has ended, other
/// streams run and it is called again. A copy that was never called is work of its own.
void enqueue_in_turns(CUstream_st* stream, std::function<bool()> work);
void check_argument_words(const void* argument, size_t bytes);

template <typename T>
void check_argument(T& argument) {
#if __has_builtin(__builtin_clear_padding)
  __builtin_clear_padding(&argument);  // where addresses of another time may stand
  check_argument_words(&argument, sizeof argument);
#else
  (void)argument;
#endif
}

using Place = std::source_location;

/// What a running thread can ask about itself.
struct Indices {
  dim3 thread, block, block_size, grid_size;
  unsigned cluster_rank, cluster_size, lane;
};
const Indices& indices();

void block_barrier(Place place);
/// There is nothing to do before others (another grid, the host) have done something.
void pause(Place place);
void cluster_barrier(Place place);

/// All lanes of `mask` meet; the last to arrive calls `complete` with every lane's operand (null
/// for lanes that are not in the mask).
void warp_operation(const char* kind, Place place, uint32_t mask, void* operand,
                    void (*complete)(void* const* operands, uint32_t mask));

/// Memory that the block's threads share, one piece for each `site`; poisoned at first.
void* static_shared(const void* site, size_t bytes);
void* dynamic_shared();
/// The same place in the shared memory of another block of the cluster.
void* remote_shared(void* pointer, unsigned rank);

// Asynchronous copies of 16 bytes, of which the last 16 - `bytes` become zero.
void async_copy(void* target, const void* source, int bytes);
void async_commit();
/// Waits for all groups but the `pending` latest.
void async_wait(int pending);

/// D = A B + C on 16x8x16 tiles, laid out over the warp as mma.sync.m16n8k16 has them; products in
/// order of k. `half` says whether operands are fp16 or bf16.
void tensor_core_product(float* c, const uint32_t* a, const uint32_t* b, bool half, Place place);
/// ldmatrix.x4: four 8x8 matrices of 16-bit elements, their rows at the addresses of 8 lanes each.
void load_matrices(uint32_t* out, const void* row, bool transposed, Place place);

struct Exchange {
  uint64_t value;
  int source;
  uint64_t result;
  uint32_t votes;
};
/// Every lane gets the value of its `source` lane; of a lane outside the mask: a poisoned one.
uint64_t shuffle(const char* kind, uint32_t mask, uint64_t value, int source, Place place);
uint32_t ballot(uint32_t mask, bool vote, Place place);

template <typename T>
T shuffle_as(const char* kind, uint32_t mask, T value, int source, Place place) {
  static_assert(sizeof(T) <= 8);
  uint64_t bits = 0;
  std::memcpy(&bits, &value, sizeof value);
  bits = shuffle(kind, mask, bits, source, place);
  std::memcpy(&value, &bits, sizeof value);
  return value;
}

}  // namespace convoke::emulation

#define threadIdx (::convoke::emulation::indices().thread)
#define blockIdx (::convoke::emulation::indices().block)
#define blockDim (::convoke::emulation::indices().block_size)
#define gridDim (::convoke::emulation::indices().grid_size)

inline void __syncthreads(::convoke::emulation::Place place = std::source_location::current()) {
  ::convoke::emulation::block_barrier(place);
}
inline void __syncwarp(uint32_t mask = 0xffffffffu,
                       ::convoke::emulation::Place place = std::source_location::current()) {
  int nothing = 0;
  ::convoke::emulation::warp_operation("__syncwarp", place, mask, &nothing,
                                       [](void* const*, uint32_t) {});
}
template <typename T>
T __shfl_sync(uint32_t mask, T value, int source,
              ::convoke::emulation::Place place = std::source_location::current()) {
  return ::convoke::emulation::shuffle_as("__shfl_sync", mask, value, source & 31, place);
}
template <typename T>
T __shfl_xor_sync(uint32_t mask, T value, int lanes,
                  ::convoke::emulation::Place place = std::source_location::current()) {
  const int source = int(::convoke::emulation::indices().lane) ^ lanes;
  return ::convoke::emulation::shuffle_as("__shfl_xor_sync", mask, value, source, place);
}
template <typename T>
T __shfl_up_sync(uint32_t mask, T value, int lanes,
                 ::convoke::emulation::Place place = std::source_location::current()) {
  const int lane = int(::convoke::emulation::indices().lane);
  const int source = lane < lanes ? lane : lane - lanes;
  return ::convoke::emulation::shuffle_as("__shfl_up_sync", mask, value, source, place);
}
inline uint32_t __ballot_sync(uint32_t mask, bool vote,
                              ::convoke::emulation::Place place = std::source_location::current()) {
  return ::convoke::emulation::ballot(mask, vote, place);
}
inline bool __any_sync(uint32_t mask, bool vote,
                       ::convoke::emulation::Place place = std::source_location::current()) {
  return ::convoke::emulation::ballot(mask, vote, place) != 0;
}
inline bool __all_sync(uint32_t mask, bool vote,
                       ::convoke::emulation::Place place = std::source_location::current()) {
  return ::convoke::emulation::ballot(mask, vote, place) == mask;
}

inline void __threadfence() {}

// Atomics: fibers do not interrupt each other.
template <typename T>
T atomicAdd(T* target, T value) {
  const T old = *target;
  *target = T(old + value);
  return old;
}
template <typename T>
T atomicMax(T* target, T value) {
  const T old = *target;
  if (value > old) *target = value;
  return old;
}

inline float __fdiv_rn(float a, float b) {
  return a / b;
}
inline int __popc(unsigned x) {
  return __builtin_popcount(x);
}
inline int __ffs(int x) {
  return __builtin_ffs(x);
}
