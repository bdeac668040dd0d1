// The device runtime (device_runtime.h) over CUDA's.
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/device_runtime.h"

namespace convoke::cuda {
namespace {

const char* advice_for(cudaError_t code) {
  switch (code) {
    case cudaErrorMemoryAllocation:
      return "use more shards (--tp), or lower --kv-cache-tokens, --max-model-len or "
             "--max-num-seqs; nvidia-smi shows what else is on the device";
    case cudaErrorInsufficientDriver:
      return "the driver is older than the CUDA runtime that this program was built with: update "
             "the driver or build with an older toolkit";
    case cudaErrorNoDevice:
    case cudaErrorInvalidDevice:
      return "look at nvidia-smi and CUDA_VISIBLE_DEVICES, or run with --device cpu";
    case cudaErrorNoKernelImageForDevice:
    case cudaErrorInvalidDeviceFunction:
      return "the kernels were not compiled for this device: build with "
             "-DCONVOKE_CUDA_ARCHITECTURES=<its compute capability without the dot>";
    case cudaErrorDevicesUnavailable:
      return "another process has the device for itself (compute mode, see nvidia-smi -q)";
    default:
      return "the device is of no more use to this process: start again, with "
             "CUDA_LAUNCH_BLOCKING=1 or under compute-sanitizer to find the cause";
  }
}

std::string current_device_name() {
  int device = -1;
  cudaDeviceProp properties;
  if (cudaGetDevice(&device) != cudaSuccess) return "no device";
  if (cudaGetDeviceProperties(&properties, device) != cudaSuccess) {
    return fmt::format("device {}", device);
  }
  return fmt::format("device {} ({})", device, properties.name);
}

}  // namespace

void check_cuda(cudaError_t code, const std::string& what) {
  if (code == cudaSuccess) return;
  throw_error(ErrorKind::kResource, "CUDA: {} on {}: {} ({}); {}", what, current_device_name(),
              cudaGetErrorString(code), cudaGetErrorName(code), advice_for(code));
}

int device_count(std::string* why) {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaSuccess) return count;
  cudaGetLastError();  // or the next launch would report it
  if (why != nullptr) {
    *why = fmt::format("cudaGetDeviceCount: {} ({})", cudaGetErrorString(code),
                       cudaGetErrorName(code));
  }
  return 0;
}

int device_at(const std::string& address) {
  int device = -1;
  if (cudaDeviceGetByPCIBusId(&device, address.c_str()) == cudaSuccess) return device;
  cudaGetLastError();  // or the next launch would report it
  return -1;
}

DeviceInfo device_info(int device) {
  select_device(device);
  cudaDeviceProp properties;
  check_cuda(cudaGetDeviceProperties(&properties, device), "cudaGetDeviceProperties");
  DeviceInfo info;
  info.name = properties.name;
  char address[32] = {};
  check_cuda(cudaDeviceGetPCIBusId(address, sizeof address, device), "cudaDeviceGetPCIBusId");
  info.address = address;
  info.major = properties.major;
  info.minor = properties.minor;
  check_cuda(cudaMemGetInfo(&info.free_bytes, &info.total_bytes), "cudaMemGetInfo");
  return info;
}

void select_device(int device) {
  const cudaError_t code = cudaSetDevice(device);
  if (code != cudaSuccess) check_cuda(code, fmt::format("cudaSetDevice({})", device));
}

void* allocate_device(size_t bytes, const char* purpose) {
  void* memory = nullptr;
  const cudaError_t code = cudaMalloc(&memory, bytes);
  if (code != cudaSuccess) {
    check_cuda(code, fmt::format("cudaMalloc of {:.1f} MB for {}", double(bytes) * 1e-6, purpose));
  }
  return memory;
}

void free_device(void* memory) noexcept {
  cudaFree(memory);
}

void* allocate_pinned(size_t bytes, const char* purpose) {
  void* memory = nullptr;
  const cudaError_t code = cudaHostAlloc(&memory, bytes, cudaHostAllocDefault);
  if (code != cudaSuccess) {
    check_cuda(code, fmt::format("cudaHostAlloc of {:.1f} MB of the host's memory for {}",
                                 double(bytes) * 1e-6, purpose));
  }
  return memory;
}

void free_pinned(void* memory) noexcept {
  cudaFreeHost(memory);
}

void* allocate_mapped(size_t bytes, const char* purpose) {
  void* memory = nullptr;
  const cudaError_t code = cudaHostAlloc(&memory, bytes, cudaHostAllocMapped);
  if (code != cudaSuccess) {
    check_cuda(
        code, fmt::format("cudaHostAlloc of {} bytes of the host's memory for {}", bytes, purpose));
  }
  // With unified addressing, which every 64-bit system has, the device's address is the same.
  return memory;
}

void free_mapped(void* memory) noexcept {
  cudaFreeHost(memory);
}

bool reaches_peer(int device, int peer) {
  if (device == peer) return true;
  int reaches = 0;
  check_cuda(cudaDeviceCanAccessPeer(&reaches, device, peer), "cudaDeviceCanAccessPeer");
  return reaches != 0;
}

void reach_peer(int device, int peer) {
  select_device(device);
  if (device == peer) return;
  const cudaError_t code = cudaDeviceEnablePeerAccess(peer, 0);
  if (code == cudaErrorPeerAccessAlreadyEnabled) {
    cudaGetLastError();  // or the next launch would report it
    return;
  }
  check_cuda(code, "cudaDeviceEnablePeerAccess");
}

MemoryHandle export_memory(void* memory) {
  cudaIpcMemHandle_t handle;
  check_cuda(cudaIpcGetMemHandle(&handle, memory), "cudaIpcGetMemHandle");
  MemoryHandle bytes;
  static_assert(sizeof handle == sizeof bytes);
  std::memcpy(bytes.data(), &handle, sizeof handle);
  return bytes;
}

void* import_memory(const MemoryHandle& bytes) {
  cudaIpcMemHandle_t handle;
  std::memcpy(&handle, bytes.data(), sizeof handle);
  void* memory = nullptr;
  const cudaError_t code = cudaIpcOpenMemHandle(&memory, handle, cudaIpcMemLazyEnablePeerAccess);
  if (code != cudaSuccess) {
    cudaGetLastError();  // or the next launch would report it
    check_cuda(code, "cudaIpcOpenMemHandle");
  }
  return memory;
}

void release_import(void* memory) noexcept {
  cudaIpcCloseMemHandle(memory);
}

CUstream_st* create_stream() {
  cudaStream_t stream = nullptr;
  check_cuda(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking), "cudaStreamCreate");
  return stream;
}

void destroy_stream(CUstream_st* stream) noexcept {
  cudaStreamDestroy(stream);
}

void enqueue_copy(CUstream_st* stream, void* to, size_t to_pitch, const void* from,
                  size_t from_pitch, size_t row_bytes, size_t rows) {
  if (row_bytes == 0 || rows == 0) return;
  if (rows == 1 || (to_pitch == row_bytes && from_pitch == row_bytes)) {
    check_cuda(cudaMemcpyAsync(to, from, row_bytes * rows, cudaMemcpyDefault, stream),
               "cudaMemcpyAsync");
    return;
  }
  check_cuda(
      cudaMemcpy2DAsync(to, to_pitch, from, from_pitch, row_bytes, rows, cudaMemcpyDefault, stream),
      "cudaMemcpy2DAsync");
}

bool copies_asynchronously(const void* memory) {
  cudaPointerAttributes attributes = {};
  check_cuda(cudaPointerGetAttributes(&attributes, memory), "cudaPointerGetAttributes");
  return attributes.type != cudaMemoryTypeUnregistered;
}

bool is_done(CUstream_st* stream) {
  return cudaStreamQuery(stream) != cudaErrorNotReady;
}

void synchronise(CUstream_st* stream) {
  check_cuda(cudaStreamSynchronize(stream), "cudaStreamSynchronize (a kernel, or a copy, failed)");
}

void begin_capture(CUstream_st* stream) {
  // Thread-local: what other threads do with the device (loading a model, another shard) is theirs.
  check_cuda(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal),
             "cudaStreamBeginCapture");
}

CUgraphExec_st* end_capture(CUstream_st* stream) {
  cudaGraph_t graph = nullptr;
  check_cuda(cudaStreamEndCapture(stream, &graph), "cudaStreamEndCapture");
  cudaGraphExec_t ready = nullptr;
  const cudaError_t code = cudaGraphInstantiate(&ready, graph, 0);
  cudaGraphDestroy(graph);
  check_cuda(code, "cudaGraphInstantiate");
  return ready;
}

void drop_capture(CUstream_st* stream) noexcept {
  cudaGraph_t graph = nullptr;
  if (cudaStreamEndCapture(stream, &graph) == cudaSuccess && graph != nullptr) {
    cudaGraphDestroy(graph);
  }
  cudaGetLastError();  // or the next launch would report it
}

void launch_graph(CUgraphExec_st* graph, CUstream_st* stream) {
  check_cuda(cudaGraphLaunch(graph, stream), "cudaGraphLaunch");
}

void destroy_graph(CUgraphExec_st* graph) noexcept {
  cudaGraphExecDestroy(graph);
}

}  // namespace convoke::cuda
