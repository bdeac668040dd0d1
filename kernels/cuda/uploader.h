// Large arrays from host memory, or files, to the device while a model is loaded.
//
// Copies from memory that is not pinned go through one buffer of the driver's and one thread, which
// also waits for the disk. So several readers take pieces of the array by turns; each has two
// pinned buffers and fills one while the device copies from the other.
#pragma once

#include <functional>
#include <vector>

#include "kernels/cuda/device_buffer.h"
#include "kernels/tensor.h"

namespace convoke::cuda {

struct UploadOptions {
  int device = 0;
  int readers = 4;
  /// Of a pinned buffer; two per reader. One row is the least that it holds.
  size_t piece_bytes = size_t{4} << 20;
};

class Uploader {
 public:
  /// How rows get into a pinned buffer, one behind the other; may throw.
  using Read = std::function<void(const TensorView& rows, std::byte* to)>;

  explicit Uploader(const UploadOptions& options);
  ~Uploader();

  /// Copies `from` to `to` in memory of the device, rows dense, and returns when it is there.
  /// `read` is called by several threads at once; empty: rows are copied from where they lie.
  /// Throws the first error of any reader, after all of them have stopped.
  void upload(const TensorView& from, std::byte* to, const Read& read);

  size_t pinned_bytes() const;

 private:
  struct Slot {
    CUstream_st* stream = nullptr;
    PinnedBuffer memory;
  };
  struct Reader {
    Slot slots[2];
  };
  class Transfer;

  const UploadOptions options_;
  std::vector<Reader> readers_;
};

}  // namespace convoke::cuda
