// Launchers of kernels/cuda for arguments in the host's memory: what a test of kernels compares
// lies there, and kernels see the device's. Works over any kernels/cuda/device_runtime.h: with the
// emulated one device memory is hidden from the host, and what the test forgot to copy ends it;
// with CUDA's it is a real device (tests/gpu).
#pragma once

#include <map>
#include <span>
#include <vector>

#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {

/// Memory of the device in which all bytes are `value`: 0xff makes NaN of every type.
DeviceBuffer filled_memory(size_t bytes, int value = 0xff);
/// Memory of the device back on the host.
template <typename T>
std::vector<T> read_back(const T* there, size_t count);

/// An array on the device.
template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(const std::vector<T>& values);
  T* data() const { return static_cast<T*>(memory_.data()); }
  std::vector<T> read() const { return read_back(data(), count_); }

 private:
  size_t count_;
  DeviceBuffer memory_;
};

/// One launch: copies to the device before it, work space, and copies back behind it. One at a time
/// in a process; device 0.
///
/// A copy ends where its memory on the device ends, as far as the alignment of the host's memory
/// (up to 16 bytes) allows: reading or writing behind it is an error, in the emulation by a page
/// that is not there and on a device under compute-sanitizer.
class DeviceCall {
 public:
  /// Kernels use clusters if they may and the device has them.
  explicit DeviceCall(bool clusters = true);
  ~DeviceCall();
  DeviceCall(const DeviceCall&) = delete;
  DeviceCall& operator=(const DeviceCall&) = delete;

  const CudaStream& stream() const { return stream_; }

  /// Where the device reads what the host has at `data`; null stays null. Memory that was named
  /// before, or is part of such memory, has one copy.
  template <typename T>
  const T* in(const T* data, size_t count) {
    return static_cast<const T*>(mirror(data, count * sizeof(T), false));
  }
  template <typename T>
  std::span<const T> in(std::span<const T> values) {
    return {in(values.data(), values.size()), values.size()};
  }
  /// With the edits of the rows.
  std::span<const PickRow> in(std::span<const PickRow> rows);
  /// What lies between the rows comes along.
  TensorView in(const TensorView& view) { return view_there(view, false); }
  /// Block tables as far as rows see them, or are stored.
  AttentionBatch in(const AttentionBatch& batch);
  /// Block tables as far as the moves reach.
  std::span<const KvMove> in(std::span<const KvMove> moves);

  /// As in(); finish() copies it back.
  template <typename T>
  std::span<T> out(std::span<T> values) {
    return {static_cast<T*>(mirror(values.data(), values.size_bytes(), true)), values.size()};
  }
  TensorView out(const TensorView& view) { return view_there(view, true); }

  /// An array that the host need not keep.
  template <typename T>
  std::span<const T> copy_of(const std::vector<T>& values) {
    return {reinterpret_cast<const T*>(copied(values.data(), values.size() * sizeof(T)).there),
            values.size()};
  }
  /// NaN at first; aligned to 256 bytes.
  Workspace workspace(size_t bytes);

  /// Waits for the launch and copies back.
  void finish();

 private:
  struct Piece {
    const std::byte* here = nullptr;
    size_t bytes = 0;
    std::byte* there = nullptr;
    std::byte* staged = nullptr;  ///< pinned, so that copies wait for nothing
    bool back = false;
  };
  Piece copied(const void* data, size_t bytes);
  void* mirror(const void* data, size_t bytes, bool back);
  TensorView view_there(const TensorView& view, bool back);

  CudaStream stream_;
  std::vector<DeviceBuffer> memory_;
  std::map<const std::byte*, Piece> pieces_;  ///< by the place in the host's memory
};

/// kernels.h once more, for arguments whose every pointer leads to the host's memory, except the
/// memory of caches and packed matrices, which is the device's.
namespace on_device {

void embed(const EmbedArgs& args);
void silu_mul(const SiluMulArgs& args);
/// bias: [x.cols]
void add_bias(const TensorView& x, const float* bias);
void fill_zero(const TensorView& x);
void convert(const TensorView& x, const TensorView& y);
void copy_rows(const CopyRowsArgs& args);
void rms_norm(const RmsNormArgs& args);
void add_rms_norm(const RmsNormArgs& args, const TensorView& addend);

void rope_append(const RopeAppendArgs& args);
/// Attention for rows that see up to `max_length` positions. `batch` is the same in both.
void rope_attention(const RopeAppendArgs& rope, const AttentionArgs& args, int max_length);
void move_kv(std::span<const KvLayer> layers, const KvShape& shape, std::span<const KvMove> moves);

void pack(const MatrixSource& source, const CudaPackedMatrix& packed);
void matmul(const MatmulArgs& args, bool clusters);

/// parts: [ranks][stride], of which `count` are added.
void rank_sum(std::span<const float> parts, int64_t stride, int ranks, std::span<float> target,
              bool add);

void pick_slice(const PickSliceArgs& args, bool clusters);
void pick_full(const PickFullArgs& args, const PickFullWants& wants, bool clusters);
void rank(const RankArgs& args, bool clusters);

}  // namespace on_device

/// Copies between any two of host and device, and waits.
void copy_and_wait(void* to, const void* from, size_t bytes);

template <typename T>
std::vector<T> read_back(const T* there, size_t count) {
  std::vector<T> values(count);
  copy_and_wait(values.data(), there, count * sizeof(T));
  return values;
}

template <typename T>
DeviceArray<T>::DeviceArray(const std::vector<T>& values)
    : count_(values.size()), memory_(filled_memory(values.size() * sizeof(T))) {
  copy_and_wait(memory_.data(), values.data(), values.size() * sizeof(T));
}

}  // namespace convoke::cuda
