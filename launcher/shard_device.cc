#include "launcher/shard_device.h"

#include <algorithm>

#include "kernels/check.h"
#include "launcher/replica.h"

#if defined(CONVOKE_HAVE_CUDA)
#include "kernels/cuda/cuda_backend.h"
#include "parallel/device_communicator.h"
#include "parallel/nccl_transport.h"
#include "parallel/peer_memory.h"
#endif
#include "parallel/staged_communicator.h"

namespace convoke {

int cuda_devices(std::string& why) {
#if defined(CONVOKE_HAVE_CUDA)
  const int count = cuda::device_count(&why);
  if (count == 0) {
    why = fmt::format(
        "no CUDA device can be used{}{}: look at nvidia-smi and CUDA_VISIBLE_DEVICES, or take "
        "--device cpu",
        why.empty() ? "" : ", ", why);
  }
  return count;
#else
  why =
      "this program was built without CUDA: take --device cpu, or build it where nvcc is found "
      "(cmake -DCONVOKE_CUDA=ON)";
  return 0;
#endif
}

GpuOptions gpu_options(int number, const EngineOptions& options) {
  return {.device = number,
          .graphs = options.gpu_graphs == "on",
          .library_products = options.gpu_matmul == "fast"};
}

std::unique_ptr<Backend> make_gpu_backend(const GpuOptions& gpu) {
#if defined(CONVOKE_HAVE_CUDA)
  return cuda::make_cuda_backend(
      {.device = gpu.device,
       .graphs = gpu.graphs,
       .matmul = gpu.library_products ? cuda::CudaMatmul::kFast : cuda::CudaMatmul::kExact});
#else
  throw_error(ErrorKind::kUsage, "CUDA device {}: this program was built without CUDA", gpu.device);
#endif
}

namespace {

#if defined(CONVOKE_HAVE_CUDA)
/// What there is of `how`: ipc, nccl, or auto, which is both. The note says what is not, and why.
DeviceLinks make_links(Backend& backend, Communicator& host, const std::string& how,
                       const CommunicatorOptions& sizes) {
  DeviceLinks links;
  const int device = cuda::device_of(backend);
  const auto missing = [&](const char* what, const std::string& why) {
    if (how != "auto") throw_error(ErrorKind::kResource, "--gpu-collectives {}: {}", how, why);
    links.note += fmt::format("{}no {}: {}", links.note.empty() ? "" : "; ", what, why);
  };
  std::string why;
  if (how != "nccl") {
    const int64_t largest = std::min(sizes.reduce_capacity, one_shot_bytes(host.size()) / 4);
    links.peers = make_peer_memory(backend, host, place_of(device), {.capacity = largest}, why);
    if (links.peers == nullptr) missing("one-shot sums", why);
  }
  if (how != "ipc") {
    links.transport = make_nccl_transport(host, device, why);
    if (links.transport == nullptr) missing("NCCL", why);
  }
  return links;
}
#endif

}  // namespace

ShardDevice choose_device(const std::string& flag) {
  // Until the CUDA backend has run on a GPU it is taken by those who ask for it, and only by them.
  if (flag == "cpu" || flag == "auto") return ShardDevice::kCpu;
  if (flag != "cuda") {
    throw_error(ErrorKind::kUsage, "--device '{}': expected auto, cpu or cuda", flag);
  }
  std::string why;
  if (cuda_devices(why) == 0) throw_error(ErrorKind::kUsage, "--device cuda: {}", why);
  return ShardDevice::kCuda;
}

void refuse_gpu_flags(const EngineOptions& options) {
  const EngineOptions usual;
  const auto refuse = [](const char* flag, const std::string& value, const std::string& none) {
    if (value == none) return;
    throw_error(ErrorKind::kUsage, "{} {}: shards compute on CPUs here; give --device cuda as well",
                flag, value);
  };
  refuse("--gpu-matmul", options.gpu_matmul, usual.gpu_matmul);
  refuse("--gpu-graphs", options.gpu_graphs, usual.gpu_graphs);
  refuse("--gpu-collectives", options.gpu_collectives, usual.gpu_collectives);
}

int64_t free_device_memory(int number) {
#if defined(CONVOKE_HAVE_CUDA)
  return int64_t(cuda::free_memory(number));
#else
  throw_error(ErrorKind::kUsage, "CUDA device {}: this program was built without CUDA", number);
#endif
}

std::unique_ptr<Communicator> communicator_for(Backend& backend, std::unique_ptr<Communicator> host,
                                               const ReplicaSetup& setup) {
  if (backend.shares_host_memory() || host->size() == 1) return host;
  const CommunicatorOptions sizes = setup.communicator_options();
#if defined(CONVOKE_HAVE_CUDA)
  const std::string& how = setup.options.gpu_collectives;
  if (how != "host" && !setup.make_backend) {
    DeviceLinks links = make_links(backend, *host, how, sizes);
    if (links.transport != nullptr || links.peers != nullptr) {
      return make_device_communicator(backend, std::move(host), std::move(links), sizes);
    }
    return make_staged_communicator(backend, std::move(host), sizes, links.note);
  }
#endif
  return make_staged_communicator(backend, std::move(host), sizes, "");
}

std::unique_ptr<Backend> ReplicaSetup::make_shard_backend() const {
  if (make_backend) return make_backend();
  if (device == ShardDevice::kCuda) {
    return make_gpu_backend(gpu_options(first_device + (*next_device)++, options));
  }
  return cpu::make_cpu_backend({.threads = threads, .isa = isa});
}

}  // namespace convoke
