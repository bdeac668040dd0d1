#include "runtime/kv_cache.h"

#include <algorithm>
#include <functional>

#include "kernels/check.h"

namespace convoke {

BlockAllocator::BlockAllocator(int32_t blocks) : total_(blocks) {
  free_.reserve(size_t(blocks));
  for (int32_t b = 0; b < blocks; ++b) free_.push_back(b);  // ascending: already a min-heap
}

bool BlockAllocator::allocate(int32_t count, std::vector<int32_t>& table) {
  CONVOKE_CHECK(count >= 0);
  if (count > free()) return false;
  for (int32_t i = 0; i < count; ++i) {
    std::pop_heap(free_.begin(), free_.end(), std::greater<>());
    table.push_back(free_.back());
    free_.pop_back();
  }
  return true;
}

void BlockAllocator::release(std::vector<int32_t>& table) {
  for (int32_t block : table) {
    free_.push_back(block);
    std::push_heap(free_.begin(), free_.end(), std::greater<>());
  }
  CONVOKE_CHECK_LE(free(), total_);
  table.clear();
}

KvCache::KvCache(Backend& backend, int layers, const KvShape& shape, int32_t blocks)
    : blocks_(blocks) {
  const size_t layer_bytes = backend.kv_block_bytes(shape) * size_t(blocks);
  memory_ = backend.allocate(layer_bytes * size_t(layers));
  for (int l = 0; l < layers; ++l) {
    layers_.push_back({static_cast<std::byte*>(memory_->data()) + size_t(l) * layer_bytes, shape});
  }
}

}  // namespace convoke
