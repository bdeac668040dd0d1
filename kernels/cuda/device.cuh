// What kernels use of the machine: the one header through which every .cu source sees CUDA, or the
// emulation of it that the tests compile the same sources against (the build puts its header in
// front of the source).
//
// CUDA's own names are used where they are plain functions (threadIdx, __syncthreads, __shfl_*):
// the emulation defines them. What needs assembly, a declaration specifier or a launch goes through
// the wrappers below, which both worlds implement.
//
// Rules for kernels:
//  - Shared memory is declared with CONVOKE_SHARED, and taken as undefined at first.
//  - A barrier, and a warp operation, is reached by all its threads at the same line.
//  - Sums have one order, written down: no atomics on floats, no fused operation but fmaf.
#pragma once

#include <cstdint>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cuda/launch_log.h"
#include "kernels/cuda/stream.h"
#include "kernels/dtype_convert.h"
#include "kernels/tensor.h"

#if !defined(CONVOKE_CUDA_EMULATION)
#if !defined(__CUDACC__)
#error "kernels/cuda: compile with nvcc, or against the emulation (tests/support/cuda_emulation)"
#endif
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#endif

namespace convoke::cuda {

inline constexpr int kWarp = 32;
inline constexpr uint32_t kAllLanes = 0xffffffffu;
inline constexpr size_t kPlainSharedBytes = 48 * 1024;  ///< more has to be asked for

struct LaunchShape {
  dim3 grid, block;
  size_t shared_bytes = 0;  ///< of dynamic shared memory
  int cluster = 1;          ///< blocks along x that share a cluster; needs compute capability 9.0
  /// Blocks wait for other devices, so all of the grid must run at once: few blocks, along x.
  bool resident = false;
};

// --- Elements ---

struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

struct Float8 {  ///< DType::kFloat8E4M3
  uint8_t bits;
};

#if defined(CONVOKE_CUDA_EMULATION)
inline float to_float(BFloat16 x) {
  return bf16_to_float(x.bits);
}
inline float to_float(Float16 x) {
  return fp16_to_float(x.bits);
}
inline void assign(BFloat16& to, float x) {
  to.bits = float_to_bf16(x);
}
inline void assign(Float16& to, float x) {
  to.bits = float_to_fp16(x);
}
#else
__device__ __forceinline__ float to_float(BFloat16 x) {
  return __uint_as_float(uint32_t(x.bits) << 16);
}
__device__ __forceinline__ float to_float(Float16 x) {
  return __half2float(__ushort_as_half(x.bits));
}
__device__ __forceinline__ void assign(BFloat16& to, float x) {
  to.bits = __bfloat16_as_ushort(__float2bfloat16_rn(x));
}
__device__ __forceinline__ void assign(Float16& to, float x) {
  to.bits = __half_as_ushort(__float2half_rn(x));
}
#endif
__device__ __forceinline__ float to_float(float x) {
  return x;
}
__device__ __forceinline__ void assign(float& to, float x) {
  to = x;
}
template <typename T>
__device__ __forceinline__ T from_float(float x) {
  T t;
  assign(t, x);
  return t;
}

/// The conversions of dtype_convert.h, which cost nothing worth a device's own: weights are packed
/// once.
__device__ __forceinline__ float to_float(Float8 x) {
  return e4m3_to_float(x.bits);
}
/// What of x / scale is stored; of weights that have 8 bits already, they themselves.
__device__ __forceinline__ uint8_t float8_code(Float8 x, float) {
  return x.bits;
}
template <typename T>
__device__ __forceinline__ uint8_t float8_code(T x, float scale) {
  return float_to_e4m3(__fdiv_rn(to_float(x), scale));
}

/// Where element i of a lane's 16 weights of 8 bits lies: of four elements in a word, the first
/// pair at bytes 1 and 3, the second at 0 and 2, so that a pair is two shifts and two masks away
/// from the pair of bfloat16 that it becomes.
__host__ __device__ __forceinline__ constexpr int float8_place(int i) {
  return i / 4 * 4 + i % 2 * 2 + (i % 4 < 2 ? 1 : 0);
}

/// Two pairs of bfloat16 from a word of four weights of 8 bits other than NaN; exact. With exponent
/// and mantissa at their places the biases differ by 120: a product with 2^120, in which subnormals
/// become normal numbers. (PTX: fma.rn.bf16x2 takes subnormal operands as they are.)
__device__ __forceinline__ void expand_float8(uint32_t word, uint32_t& first, uint32_t& second) {
#if defined(CONVOKE_CUDA_EMULATION)
  const auto wide = [word](int byte) { return uint32_t(e4m3_to_bf16(uint8_t(word >> 8 * byte))); };
  first = wide(1) | wide(3) << 16;
  second = wide(0) | wide(2) << 16;
#else
  const uint32_t a = (word & 0x80008000u) | (word >> 4 & 0x07f007f0u);
  const uint32_t b = (word << 8 & 0x80008000u) | (word << 4 & 0x07f007f0u);
  constexpr uint32_t kFactor = 0x7b807b80u, kMinusZero = 0x80008000u;  // 2^120, -0
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(first) : "r"(a), "r"(kFactor), "r"(kMinusZero));
  asm("fma.rn.bf16x2 %0, %1, %2, %3;" : "=r"(second) : "r"(b), "r"(kFactor), "r"(kMinusZero));
#endif
}

template <typename T>
inline constexpr DType kDTypeOf = DType::kFloat32;
template <>
inline constexpr DType kDTypeOf<BFloat16> = DType::kBFloat16;
template <>
inline constexpr DType kDTypeOf<Float16> = DType::kFloat16;

/// Calls visit(T{}) with the element type of `dtype`.
template <typename Visit>
void with_element(DType dtype, Visit visit) {
  switch (dtype) {
    case DType::kFloat32:
      return visit(float{});
    case DType::kBFloat16:
      return visit(BFloat16{});
    case DType::kFloat16:
      return visit(Float16{});
    default:
      CONVOKE_CHECK(dtype == DType::kFloat32 || dtype == DType::kBFloat16 ||
                    dtype == DType::kFloat16);
  }
}

// --- Shared memory, asynchronous copies, clusters, tensor cores ---

#if defined(CONVOKE_CUDA_EMULATION)

/// Declares `name`, a reference to a Type that the threads of the block share.
#define CONVOKE_SHARED(Type, name)                        \
  static char name##_site_ = 0;                           \
  auto& name = *static_cast<std::type_identity_t<Type>*>( \
      ::convoke::emulation::static_shared(&name##_site_, sizeof(Type)))
/// Declares `name`, a pointer to the dynamic shared memory of the launch, aligned to 16 bytes.
#define CONVOKE_DYNAMIC_SHARED(name) \
  auto* const name = static_cast<unsigned char*>(::convoke::emulation::dynamic_shared())

/// Copies 16 bytes, the last 16 - `bytes` of them zeros, into shared memory; done after its wait.
inline void copy_async(void* target, const void* source, int bytes = 16) {
  ::convoke::emulation::async_copy(target, source, bytes);
}
inline void commit_copies() {
  ::convoke::emulation::async_commit();
}
/// Waits for this thread's copies, but for the kPending groups committed last.
template <int kPending>
inline void wait_copies() {
  ::convoke::emulation::async_wait(kPending);
}

inline unsigned cluster_rank() {
  return ::convoke::emulation::indices().cluster_rank;
}
inline void cluster_sync(std::source_location place = std::source_location::current()) {
  ::convoke::emulation::cluster_barrier(place);
}
/// The same object in the shared memory of block `rank` of the cluster.
template <typename T>
T* in_block(T* shared, unsigned rank) {
  return static_cast<T*>(::convoke::emulation::remote_shared(shared, rank));
}

template <typename T>
void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4], const uint32_t (&b)[2],
                 std::source_location place = std::source_location::current()) {
  ::convoke::emulation::tensor_core_product(c, a, b, kDTypeOf<T> == DType::kFloat16, place);
}
inline void load_matrix_x4(uint32_t (&out)[4], const void* row,
                           std::source_location place = std::source_location::current()) {
  ::convoke::emulation::load_matrices(out, row, false, place);
}
inline void load_matrix_x4_transposed(
    uint32_t (&out)[4], const void* row,
    std::source_location place = std::source_location::current()) {
  ::convoke::emulation::load_matrices(out, row, true, place);
}

/// 16 bytes that are read once: past the first-level cache.
inline uint4 load_streaming(const uint4* from) {
  return *from;
}
inline void prefetch(const void*) {}

// Words in memory that other devices, or the host, read and write meanwhile.
inline void store_release_system(uint64_t* to, uint64_t value) {
  __atomic_store_n(to, value, __ATOMIC_RELEASE);
}
inline uint64_t load_acquire_system(const uint64_t* from) {
  return __atomic_load_n(from, __ATOMIC_ACQUIRE);
}
inline uint32_t load_relaxed_system(const uint32_t* from) {
  return __atomic_load_n(from, __ATOMIC_RELAXED);
}
/// Looks at such a word of the device before one at the host's, which takes as long as several.
inline constexpr int kSpinsPerLook = 1;
/// Between two looks.
inline void pause(std::source_location place = std::source_location::current()) {
  ::convoke::emulation::pause(place);
}

/// Runs a kernel: launch(stream, shape, kernel<...>, arguments...), or writes it down where the
/// stream has a log. On an emulated stream it runs when somebody waits for the stream, and may see
/// device memory only; without one, at once.
template <typename... Params, typename... Args>
void launch(const CudaStream& stream, const LaunchShape& shape, void (*kernel)(Params...),
            Args... args) {
  if (stream.log != nullptr) {
    return stream.log->add([=](const CudaStream& to) { launch(to, shape, kernel, args...); });
  }
  const ::convoke::emulation::Shape emulated = {shape.grid, shape.block, shape.shared_bytes,
                                                unsigned(shape.cluster), shape.resident};
  if (stream.handle == nullptr) return ::convoke::emulation::launch(emulated, kernel, args...);
  (::convoke::emulation::check_argument(args), ...);
  if (shape.resident) {
    std::shared_ptr<::convoke::emulation::ResidentGrid> grid;
    return ::convoke::emulation::enqueue_in_turns(stream.handle, [=]() mutable {
      if (grid == nullptr) {
        grid = ::convoke::emulation::make_resident(emulated,
                                                   [=] { kernel(static_cast<Params>(args)...); });
      }
      return ::convoke::emulation::advance(*grid);
    });
  }
  ::convoke::emulation::enqueue(stream.handle,
                                [=] { ::convoke::emulation::launch(emulated, kernel, args...); });
}

#else

#define CONVOKE_SHARED(Type, name) __shared__ Type name
#define CONVOKE_DYNAMIC_SHARED(name)                \
  extern __shared__ uint4 convoke_dynamic_shared[]; \
  unsigned char* const name = reinterpret_cast<unsigned char*>(convoke_dynamic_shared)

__device__ __forceinline__ uint32_t shared_address(const void* pointer) {
  return uint32_t(__cvta_generic_to_shared(pointer));
}
__device__ __forceinline__ void copy_async(void* target, const void* source, int bytes = 16) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(target)),
               "l"(source), "r"(bytes)
               : "memory");
}
__device__ __forceinline__ void commit_copies() {
  asm volatile("cp.async.commit_group;" ::: "memory");
}
template <int kPending>
__device__ __forceinline__ void wait_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

// Below sm_90 there are no clusters; kernels that use them are not launched there.
__device__ __forceinline__ unsigned cluster_rank() {
#if __CUDA_ARCH__ >= 900
  unsigned rank;
  asm volatile("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
#else
  return 0;
#endif
}
__device__ __forceinline__ void cluster_sync() {
#if __CUDA_ARCH__ >= 900
  asm volatile(
      "barrier.cluster.arrive.release.aligned;\n"
      "barrier.cluster.wait.acquire.aligned;" ::
          : "memory");
#else
  __syncthreads();
#endif
}
template <typename T>
__device__ __forceinline__ T* in_block(T* shared, unsigned rank) {
#if __CUDA_ARCH__ >= 900
  uint64_t remote;
  asm("mapa.u64 %0, %1, %2;" : "=l"(remote) : "l"(shared), "r"(rank));
  return reinterpret_cast<T*>(remote);
#else
  return shared;
#endif
}

template <typename T>
__device__ __forceinline__ void mma_16x8x16(float (&c)[4], const uint32_t (&a)[4],
                                            const uint32_t (&b)[2]) {
  if constexpr (kDTypeOf<T> == DType::kFloat16) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, {%8,%9}, "
        "{%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
  }
}
__device__ __forceinline__ void load_matrix_x4(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}
__device__ __forceinline__ void load_matrix_x4_transposed(uint32_t (&out)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];"
               : "=r"(out[0]), "=r"(out[1]), "=r"(out[2]), "=r"(out[3])
               : "r"(shared_address(row))
               : "memory");
}

__device__ __forceinline__ uint4 load_streaming(const uint4* from) {
  uint4 v;
  asm volatile("ld.global.nc.L1::no_allocate.v4.u32 {%0,%1,%2,%3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
               : "l"(from));
  return v;
}

__device__ __forceinline__ void store_release_system(uint64_t* to, uint64_t value) {
  asm volatile("st.release.sys.global.u64 [%0], %1;" ::"l"(to), "l"(value) : "memory");
}
__device__ __forceinline__ uint64_t load_acquire_system(const uint64_t* from) {
  uint64_t value;
  asm volatile("ld.acquire.sys.global.u64 %0, [%1];" : "=l"(value) : "l"(from) : "memory");
  return value;
}
__device__ __forceinline__ uint32_t load_relaxed_system(const uint32_t* from) {
  uint32_t value;
  asm volatile("ld.relaxed.sys.global.u32 %0, [%1];" : "=r"(value) : "l"(from) : "memory");
  return value;
}
inline constexpr int kSpinsPerLook = 256;
/// Loads take long enough.
__device__ __forceinline__ void pause() {}

/// Throws Error(kResource) that names the call, the device and what to do (device_runtime.cu).
void check_cuda(cudaError_t code, const std::string& what);

template <typename... Params, typename... Args>
void launch(const CudaStream& stream, const LaunchShape& shape, void (*kernel)(Params...),
            Args... args) {
  if (stream.log != nullptr) {
    return stream.log->add([=](const CudaStream& to) { launch(to, shape, kernel, args...); });
  }
  if (shape.shared_bytes > kPlainSharedBytes) {
    const cudaError_t code = cudaFuncSetAttribute(
        kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, int(shape.shared_bytes));
    if (code != cudaSuccess) {
      check_cuda(code, fmt::format("cudaFuncSetAttribute ({} bytes of shared memory)",
                                   shape.shared_bytes));
    }
  }
  cudaLaunchAttribute attribute = {};
  attribute.id = cudaLaunchAttributeClusterDimension;
  attribute.val.clusterDim.x = unsigned(shape.cluster);
  attribute.val.clusterDim.y = attribute.val.clusterDim.z = 1;
  cudaLaunchConfig_t config = {};
  config.gridDim = shape.grid;
  config.blockDim = shape.block;
  config.dynamicSmemBytes = shape.shared_bytes;
  config.stream = stream.handle;
  config.attrs = &attribute;
  config.numAttrs = shape.cluster > 1 ? 1 : 0;
  const cudaError_t code = cudaLaunchKernelEx(&config, kernel, static_cast<Params>(args)...);
  if (code != cudaSuccess) {
    check_cuda(code,
               fmt::format("cudaLaunchKernelEx (grid {} x {} x {}, {} threads, cluster {})",
                           shape.grid.x, shape.grid.y, shape.grid.z, shape.block.x, shape.cluster));
  }
}

#endif

// --- What several kernels must compute alike ---

/// Sum over the warp, the same on every lane: a balanced tree over lanes 0 to 31.
__device__ __forceinline__ float warp_sum(float x) {
  for (int lanes = 1; lanes < kWarp; lanes *= 2) x += __shfl_xor_sync(kAllLanes, x, lanes);
  return x;
}
__device__ __forceinline__ float warp_max(float x) {
  for (int lanes = 1; lanes < kWarp; lanes *= 2) {
    const float other = __shfl_xor_sync(kAllLanes, x, lanes);
    x = other > x ? other : x;
  }
  return x;
}

/// The logistic function times its argument: the same wherever it is fused.
__device__ __forceinline__ float silu(float x) {
  return __fdiv_rn(x, 1.0f + expf(-x));
}

__device__ __forceinline__ int lane_index() {
  return int(threadIdx.x % kWarp);
}
__device__ __forceinline__ int warp_index() {
  return int(threadIdx.x / kWarp);
}

template <typename T>
__host__ __device__ __forceinline__ constexpr T ceil_div(T a, T b) {
  return (a + b - 1) / b;
}

}  // namespace convoke::cuda
