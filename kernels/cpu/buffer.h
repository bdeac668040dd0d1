// Memory of the CPU backend: page-granular, with huge pages where they pay.
#pragma once

#include <cstddef>
#include <memory>

#include "kernels/backend.h"

namespace convoke::cpu {

/// At least 64-byte aligned. From about a megabyte on, the memory comes from the system, aligned to
/// 2 MB and advised to use huge pages, and its pages exist only once they are touched (by the
/// thread, and so on the memory node, that touches them first). Throws Error(kResource).
std::unique_ptr<Buffer> allocate_buffer(size_t bytes);

/// Hands out pieces of large buffers, one behind the other, so that many small matrices share huge
/// pages. A chunk is freed with its last piece.
class Arena {
 public:
  struct Piece {
    std::byte* data = nullptr;
    std::shared_ptr<Buffer> keep;  ///< holds the chunk
  };
  Piece allocate(size_t bytes);

 private:
  std::shared_ptr<Buffer> chunk_;
  size_t used_ = 0;
};

}  // namespace convoke::cpu
