#include "kernels/cpu/buffer.h"

#include <sys/mman.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <new>

#include "kernels/check.h"

namespace convoke::cpu {
namespace {

constexpr size_t kHugePage = size_t(2) << 20;
constexpr size_t kLargeFrom = size_t(1) << 20;
constexpr size_t kAlignment = 64;
constexpr size_t kPieceAlignment = 4096;
constexpr size_t kChunk = size_t(64) << 20;

size_t round_up(size_t value, size_t unit) {
  return (value + unit - 1) / unit * unit;
}

class SmallBuffer final : public Buffer {
 public:
  explicit SmallBuffer(size_t bytes)
      : data_(::operator new(round_up(std::max<size_t>(bytes, 1), kAlignment),
                             std::align_val_t(kAlignment), std::nothrow)),
        bytes_(bytes) {
    if (data_ == nullptr) throw_error(ErrorKind::kResource, "cannot allocate {} bytes", bytes);
  }
  ~SmallBuffer() override { ::operator delete(data_, std::align_val_t(kAlignment)); }
  SmallBuffer(const SmallBuffer&) = delete;
  SmallBuffer& operator=(const SmallBuffer&) = delete;
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  void* data_;
  size_t bytes_;
};

/// Anonymous pages. Maps a huge page more than asked for, to begin at a multiple of one.
class LargeBuffer final : public Buffer {
 public:
  explicit LargeBuffer(size_t bytes) : bytes_(bytes) {
    if (bytes > SIZE_MAX - 2 * kHugePage) throw_unavailable(ENOMEM);
    mapped_bytes_ = round_up(bytes, kHugePage) + kHugePage;
    mapped_ = mmap(nullptr, mapped_bytes_, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped_ == MAP_FAILED) throw_unavailable(errno);
    const auto begin = round_up(reinterpret_cast<uintptr_t>(mapped_), kHugePage);
    data_ = reinterpret_cast<void*>(begin);
    // Only advice: without huge pages everything works, slower.
    madvise(data_, round_up(bytes, kHugePage), MADV_HUGEPAGE);
  }
  ~LargeBuffer() override { munmap(mapped_, mapped_bytes_); }
  LargeBuffer(const LargeBuffer&) = delete;
  LargeBuffer& operator=(const LargeBuffer&) = delete;
  void* data() const override { return data_; }
  size_t bytes() const override { return bytes_; }

 private:
  [[noreturn]] void throw_unavailable(int error) const {
    throw_error(ErrorKind::kResource, "cannot allocate {} MB of memory: {}", bytes_ >> 20,
                std::strerror(error));
  }

  void* mapped_ = nullptr;
  size_t mapped_bytes_ = 0;
  void* data_ = nullptr;
  size_t bytes_;
};

}  // namespace

std::unique_ptr<Buffer> allocate_buffer(size_t bytes) {
  if (bytes < kLargeFrom) return std::make_unique<SmallBuffer>(bytes);
  return std::make_unique<LargeBuffer>(bytes);
}

Arena::Piece Arena::allocate(size_t bytes) {
  const size_t size = round_up(bytes, kPieceAlignment);
  if (size > kChunk / 2) {
    std::shared_ptr<Buffer> own = allocate_buffer(bytes);
    return {static_cast<std::byte*>(own->data()), own};
  }
  if (!chunk_ || used_ + size > chunk_->bytes()) {
    chunk_ = allocate_buffer(kChunk);
    used_ = 0;
  }
  Piece piece{static_cast<std::byte*>(chunk_->data()) + used_, chunk_};
  used_ += size;
  return piece;
}

}  // namespace convoke::cpu
