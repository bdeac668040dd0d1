// What the shards of a job compute on: what --device means on this host, and the backend for it.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "kernels/backend.h"
#include "parallel/communicator.h"

namespace convoke {

struct EngineOptions;
struct GpuOptions;
struct ReplicaSetup;

enum class ShardDevice { kCpu, kCuda };

/// How many CUDA devices can be used; if none, `why` says what to do about it.
int cuda_devices(std::string& why);

/// "auto" is the CPU. Throws Error(kUsage) that says what to do when "cuda" cannot be had, or for
/// another name.
ShardDevice choose_device(const std::string& flag);

/// Throws Error(kUsage) when a flag asks for something of GPUs that the CPU would do without a
/// word.
void refuse_gpu_flags(const EngineOptions& options);

/// CUDA device `number` with what the flags say of GPUs.
GpuOptions gpu_options(int number, const EngineOptions& options);
/// Throws Error(kResource) for a device that cannot be used.
std::unique_ptr<Backend> make_gpu_backend(const GpuOptions& gpu);

/// Memory of CUDA device `number` that is free, in bytes. Throws Error(kResource) when there is no
/// such device.
int64_t free_device_memory(int number);

/// How the shards of a replica add up what their backends hold (--gpu-collectives): `host` itself
/// where they share its memory, else through each other's memory, NCCL, or the host's memory, by
/// way of `host`. Collective. Throws Error(kResource) where a way is insisted on and cannot be
/// used.
std::unique_ptr<Communicator> communicator_for(Backend& backend, std::unique_ptr<Communicator> host,
                                               const ReplicaSetup& setup);

}  // namespace convoke
