// The paged key/value cache. A block holds kKvBlockSize consecutive slots of one sequence in every
// layer; the coordinator hands out block numbers (BlockAllocator), and every shard keeps the memory
// for its own heads (KvCache) under the same numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "kernels/backend.h"

namespace convoke {

/// Blocks needed for `slots` slots.
inline int32_t blocks_for(int64_t slots) {
  return int32_t((slots + kKvBlockSize - 1) / kKvBlockSize);
}

/// Which block numbers are free. Lowest numbers first, so a run is reproducible.
class BlockAllocator {
 public:
  explicit BlockAllocator(int32_t blocks);
  int32_t total() const { return total_; }
  int32_t free() const { return int32_t(free_.size()); }
  /// Appends `count` blocks to `table`, or returns false and changes nothing.
  bool allocate(int32_t count, std::vector<int32_t>& table);
  void release(std::vector<int32_t>& table);  ///< and clears it

 private:
  int32_t total_;
  std::vector<int32_t> free_;  ///< a min-heap
};

/// One shard's memory for `blocks` blocks in every layer.
class KvCache {
 public:
  KvCache(Backend& backend, int layers, const KvShape& shape, int32_t blocks);
  std::span<const KvLayer> layers() const { return layers_; }
  int32_t blocks() const { return blocks_; }

 private:
  std::unique_ptr<Buffer> memory_;
  std::vector<KvLayer> layers_;
  int32_t blocks_;
};

}  // namespace convoke
