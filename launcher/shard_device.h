// What the shards of a job compute on: what --device means on this host, and the backend for it.
#pragma once

#include <cstdint>
#include <string>

namespace convoke {

enum class ShardDevice { kCpu, kCuda };

/// "auto" is the CPU. Throws Error(kUsage) that says what to do when "cuda" cannot be had, or for
/// another name.
ShardDevice choose_device(const std::string& flag);

/// Memory of CUDA device `number` that is free, in bytes. Throws Error(kResource) when there is no
/// such device.
int64_t free_device_memory(int number);

}  // namespace convoke
