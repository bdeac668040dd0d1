// The layout inside a block of the key/value cache, per key/value head: a key tile of 16 slots,
// then a value tile of 16 slots.
//
//   bfloat16 keys    [head_dim / 2][16 slots][2]   two elements of one slot side by side
//   float32 keys     [head_dim][16 slots]
//   bfloat16 values  [8 slot pairs][width][2]      one element of two slots side by side
//   float32 values   [16 slots][width]
//
// Keys have slots along the vector, so that sixteen scores grow side by side, each in one lane;
// values have the head's elements along the vector. Pairs of bfloat16 share a 32-bit lane, from
// which each half becomes a float32 with one operation (and matrix units take such pairs as they
// are). `width` is head_dim rounded up to 16; the padding is never written and its lanes never
// reach an output.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/backend.h"

namespace convoke::cpu {

// Functions are static, because files compiled for different instruction sets include this.

struct KvGeometry {
  int head_dim = 0;
  int width = 0;          ///< of a value row, in elements
  size_t key_elements;    ///< of one key tile
  size_t head_elements;   ///< of one key tile and one value tile
  size_t block_elements;  ///< of one block
};

static inline KvGeometry kv_geometry(const KvShape& shape) {
  KvGeometry geometry;
  geometry.head_dim = shape.head_dim;
  geometry.width = (shape.head_dim + 15) / 16 * 16;
  geometry.key_elements = size_t(shape.head_dim) * kKvBlockSize;
  geometry.head_elements = geometry.key_elements + size_t(geometry.width) * kKvBlockSize;
  geometry.block_elements = geometry.head_elements * size_t(shape.kv_heads);
  return geometry;
}

/// Where the tiles of one head begin, given the block of a slot.
template <typename Element>
static inline Element* key_tile(const KvLayer& kv, const KvGeometry& geometry, int32_t block,
                                int kv_head) {
  return static_cast<Element*>(kv.data) + size_t(block) * geometry.block_elements +
         size_t(kv_head) * geometry.head_elements;
}

/// Index of an element in a tile, by element type: bfloat16 (uint16_t) or float.
template <typename Element>
static inline size_t key_index(int place, int element) {
  if constexpr (sizeof(Element) == 2) {
    return size_t(element / 2 * kKvBlockSize + place) * 2 + size_t(element % 2);
  } else {
    return size_t(element) * kKvBlockSize + size_t(place);
  }
}
template <typename Element>
static inline size_t value_index(const KvGeometry& geometry, int place, int element) {
  if constexpr (sizeof(Element) == 2) {
    return size_t(place / 2 * geometry.width + element) * 2 + size_t(place % 2);
  } else {
    return size_t(place) * size_t(geometry.width) + size_t(element);
  }
}

}  // namespace convoke::cpu
