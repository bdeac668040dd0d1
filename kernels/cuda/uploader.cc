#include "kernels/cuda/uploader.h"

#include <algorithm>
#include <atomic>
#include <cstring>
#include <exception>
#include <mutex>
#include <thread>

#include "kernels/check.h"

namespace convoke::cuda {
namespace {

void copy_rows(const TensorView& rows, std::byte* to) {
  const size_t row_bytes = size_t(rows.cols) * dtype_size(rows.dtype);
  for (int64_t r = 0; r < rows.rows; ++r, to += row_bytes) {
    std::memcpy(to, rows.row<std::byte>(r), row_bytes);
  }
}

}  // namespace

Uploader::Uploader(const UploadOptions& options) : options_(options) {
  CONVOKE_CHECK(options.readers >= 1 && options.piece_bytes >= 1);
  select_device(options.device);
  readers_.resize(size_t(options.readers));
  for (Reader& reader : readers_) {
    for (Slot& slot : reader.slots) slot.stream = create_stream();
  }
}

Uploader::~Uploader() {
  for (Reader& reader : readers_) {
    for (Slot& slot : reader.slots) destroy_stream(slot.stream);
  }
}

size_t Uploader::pinned_bytes() const {
  size_t bytes = 0;
  for (const Reader& reader : readers_) {
    for (const Slot& slot : reader.slots) bytes += slot.memory.bytes();
  }
  return bytes;
}

/// One array on its way.
class Uploader::Transfer {
 public:
  Transfer(const TensorView& from, std::byte* to, const Read& read, const UploadOptions& options)
      : from_(from),
        to_(to),
        read_(read),
        device_(options.device),
        row_bytes_(size_t(from.cols) * dtype_size(from.dtype)),
        piece_rows_(std::max<int64_t>(1, int64_t(options.piece_bytes / row_bytes_))),
        pieces_((from.rows + piece_rows_ - 1) / piece_rows_) {}

  int64_t pieces() const { return pieces_; }
  /// What one reader does, on any thread.
  void work(Reader& reader) noexcept {
    try {
      select_device(device_);
      int turn = 0;
      for (int64_t i = next_++; i < pieces_; i = next_++, turn ^= 1) send(reader.slots[turn], i);
      for (Slot& slot : reader.slots) synchronise(slot.stream);
    } catch (...) {
      fail(std::current_exception());
      // The target may go now: nothing is to be on its way to it.
      for (Slot& slot : reader.slots) settle(slot);
    }
  }
  /// After all readers have ended.
  void rethrow() const {
    if (error_) std::rethrow_exception(error_);
  }

 private:
  void send(Slot& slot, int64_t piece) {
    const int64_t first = piece * piece_rows_;
    const TensorView rows = from_.row_range(first, std::min(first + piece_rows_, from_.rows));
    const size_t bytes = size_t(rows.rows) * row_bytes_;
    synchronise(slot.stream);  // the device may still be reading there
    const size_t most = size_t(piece_rows_) * row_bytes_;
    if (slot.memory.bytes() < bytes) {
      slot.memory = PinnedBuffer(most, "weights on their way to the device");
    }
    auto* const pinned = static_cast<std::byte*>(slot.memory.data());
    read_ ? read_(rows, pinned) : copy_rows(rows, pinned);
    enqueue_copy(slot.stream, to_ + size_t(first) * row_bytes_, bytes, pinned, bytes, bytes, 1);
  }
  void fail(std::exception_ptr error) {
    const std::lock_guard lock(mutex_);
    if (!error_) error_ = std::move(error);
    next_ = pieces_;
  }
  static void settle(Slot& slot) noexcept {
    try {
      synchronise(slot.stream);
    } catch (const Error&) {
      // The first error says more.
    }
  }

  const TensorView from_;
  std::byte* const to_;
  const Read& read_;
  const int device_;
  const size_t row_bytes_;
  const int64_t piece_rows_;
  const int64_t pieces_;
  std::atomic<int64_t> next_ = 0;
  std::mutex mutex_;
  std::exception_ptr error_;
};

void Uploader::upload(const TensorView& from, std::byte* to, const Read& read) {
  if (from.rows == 0 || from.cols == 0) return;
  Transfer transfer(from, to, read, options_);
  {
    std::vector<std::jthread> threads;
    const auto count = size_t(std::min<int64_t>(options_.readers, transfer.pieces()));
    for (size_t i = 1; i < count; ++i) {
      threads.emplace_back([&transfer, &reader = readers_[i]] { transfer.work(reader); });
    }
    transfer.work(readers_[0]);
  }
  transfer.rethrow();
}

}  // namespace convoke::cuda
