// Rotation and append to the cache, written once for sixteen lanes; included by the files of one
// instruction set each.
#pragma once

#include "kernels/cpu/attention.h"
#include "kernels/cpu/kv_tiles.h"
#include "kernels/cpu/simd16.h"

namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE {
namespace {

/// Normalises (if `norm`) and rotates one head; `out` may be `x`.
void rotate_head(const float* x, float* out, int head_dim, const float* cos, const float* sin,
                 const float* norm, float epsilon) {
  const int half = head_dim / 2;
  const Floats factor = broadcast(norm != nullptr ? inverse_rms(x, head_dim, epsilon) : 1.f);
  for (int j = 0; j < half; j += kLanes) {
    const int lanes = min_of(kLanes, half - j);
    Floats a = load_lanes(x + j, lanes), b = load_lanes(x + half + j, lanes);
    if (norm != nullptr) {
      a = a * factor * load_lanes(norm + j, lanes);
      b = b * factor * load_lanes(norm + half + j, lanes);
    }
    const Floats c = load_lanes(cos + j, lanes), s = load_lanes(sin + j, lanes);
    const Floats rotated_a = fma(a, c, -(b * s)), rotated_b = fma(b, c, a * s);
    if (lanes == kLanes) {
      store(out + j, rotated_a);
      store(out + half + j, rotated_b);
    } else {
      store_some(out + j, rotated_a, lanes);
      store_some(out + half + j, rotated_b, lanes);
    }
  }
}

/// The head in the cache's type.
void convert_head(const float* x, uint16_t* out, int head_dim) {
  for (int j = 0; j < head_dim; j += kLanes) {
    const int lanes = min_of(kLanes, head_dim - j);
    store_bf16_some(out + j, load_lanes(x + j, lanes), lanes);
  }
}
void convert_head(const float* x, float* out, int head_dim) {
  for (int j = 0; j < head_dim; ++j) out[j] = x[j];
}

/// A float32 value is one piece; a bfloat16 one has every second place of a line of pairs.
void store_value(float* target, const float* value, int head_dim) {
  for (int j = 0; j < head_dim; ++j) target[j] = value[j];
}
void store_value(uint16_t* target, const uint16_t* value, int head_dim) {
  int j = 0;
#if defined(CONVOKE_SIMD_AVX512)
  for (; j + kLanes <= head_dim; j += kLanes) {
    const __m512i words = _mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)(value + j)));
    _mm512_mask_storeu_epi16(target + 2 * j, 0x55555555u, words);
  }
#endif
  for (; j < head_dim; ++j) target[2 * j] = value[j];
}

/// Writes key and value of one slot and nothing beside them: other threads may be writing the
/// neighbouring slots.
template <typename Element>
void store_slot(Element* keys, const KvGeometry& geometry, int place, const Element* key,
                const Element* value) {
  constexpr int kStep = sizeof(Element) == 2 ? 2 : 1;  // a pair of bfloat16 goes as one word
  for (int j = 0; j < geometry.head_dim; j += kStep) {
    __builtin_memcpy(keys + key_index<Element>(place, j), key + j, kStep * sizeof(Element));
  }
  store_value(keys + geometry.key_elements + value_index<Element>(geometry, place, 0), value,
              geometry.head_dim);
}

template <typename Element>
void rope_append_as(const RopeAppendArgs& args, int row, int kv_head) {
  const AttentionBatch& batch = *args.batch;
  const KvGeometry geometry = kv_geometry(args.kv.shape);
  const int head_dim = geometry.head_dim;
  const size_t r = size_t(row);
  const size_t angles = size_t(batch.position[r]) * size_t(head_dim / 2);
  const float* const cos = args.cos + angles;
  const float* const sin = args.sin + angles;
  float* const heads = args.qkv.row<float>(row);
  const int group = args.heads / args.kv.shape.kv_heads;
  for (int head = kv_head * group; head < (kv_head + 1) * group; ++head) {
    float* const query = heads + head * head_dim;
    rotate_head(query, query, head_dim, cos, sin, args.q_norm, args.norm_epsilon);
  }
  const float* const key = heads + (args.heads + kv_head) * head_dim;
  const float* const value = key + args.kv.shape.kv_heads * head_dim;
  alignas(64) float rotated[kMaxHeadDim];
  rotate_head(key, rotated, head_dim, cos, sin, args.k_norm, args.norm_epsilon);
  alignas(64) Element stored_key[kMaxHeadDim], stored_value[kMaxHeadDim];
  convert_head(rotated, stored_key, head_dim);
  convert_head(value, stored_value, head_dim);

  const int slot = batch.slot[r];
  const int32_t block = batch.block_tables[size_t(batch.sequence[r])][slot / kKvBlockSize];
  store_slot(key_tile<Element>(args.kv, geometry, block, kv_head), geometry, slot % kKvBlockSize,
             stored_key, stored_value);
}

void rope_append_row(const RopeAppendArgs& args, int row, int kv_head) {
  if (args.kv.shape.dtype == DType::kBFloat16) {
    rope_append_as<uint16_t>(args, row, kv_head);
  } else {
    rope_append_as<float>(args, row, kv_head);
  }
}

}  // namespace
}  // namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE
