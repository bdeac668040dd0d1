// Device memory and pinned host memory that are freed with their owner.
#pragma once

#include <utility>

#include "kernels/cuda/device_runtime.h"

namespace convoke::cuda {

/// Memory of one kind. Empty at first.
template <void* (*kAllocate)(size_t, const char*), void (*kFree)(void*) noexcept>
class OwnedMemory final : public Buffer {
 public:
  OwnedMemory() = default;
  OwnedMemory(size_t bytes, const char* purpose)
      : data_(bytes == 0 ? nullptr : kAllocate(bytes, purpose)), bytes_(bytes) {}
  OwnedMemory(OwnedMemory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  OwnedMemory& operator=(OwnedMemory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }
  ~OwnedMemory() override {
    if (data_ != nullptr) kFree(data_);
  }
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

using DeviceBuffer = OwnedMemory<allocate_device, free_device>;
using PinnedBuffer = OwnedMemory<allocate_pinned, free_pinned>;

}  // namespace convoke::cuda
