// Where keys and values lie: a block holds, for each key/value head, kKvBlockSize keys and then as
// many values, each head_dim elements in a row.
#pragma once

#include "kernels/cuda/device.cuh"

namespace convoke::cuda {

/// The key of a slot; its value lies kKvBlockSize * head_dim elements further.
template <typename T>
__device__ __forceinline__ T* key_at(T* data, int kv_heads, int head_dim, int kv_head,
                                     const int32_t* table, int slot) {
  const int64_t block = table[slot / kKvBlockSize];
  const int64_t head = block * kv_heads + kv_head;
  return data + (head * 2 * kKvBlockSize + slot % kKvBlockSize) * head_dim;
}

}  // namespace convoke::cuda
