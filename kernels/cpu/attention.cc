#include "kernels/cpu/attention.h"

#include <algorithm>

#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/kv_tiles.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/simd_tables.h"

namespace convoke::cpu {
namespace {

const AttentionKernels& kernels_for(Isa isa) {
  return table_for(isa, portable::attention_kernels(), avx2::attention_kernels(),
                   avx512::attention_kernels());
}

const AttentionKernels& attend_kernels_for(Isa isa, const KvShape& shape) {
  const bool fits_tiles = shape.dtype == DType::kBFloat16 && shape.head_dim % 32 == 0;
  if (isa == Isa::kAmxBf16 && fits_tiles && amx::attention_kernels() != nullptr) {
    return *amx::attention_kernels();
  }
  return kernels_for(isa);
}

void check_shape(const KvShape& shape) {
  CONVOKE_CHECK_GE(shape.kv_heads, 1);
  CONVOKE_CHECK_GE(shape.head_dim, 2);
  CONVOKE_CHECK_EQ(shape.head_dim % 2, 0);
  CONVOKE_CHECK_LE(shape.head_dim, kMaxHeadDim);
  CONVOKE_CHECK(shape.dtype == DType::kBFloat16 || shape.dtype == DType::kFloat32);
}

void check_batch(const TensorView& qkv, int heads, const AttentionBatch& batch, const KvLayer& kv) {
  check_shape(kv.shape);
  CONVOKE_CHECK_GE(heads, 1);
  CONVOKE_CHECK_EQ(heads % kv.shape.kv_heads, 0);
  CONVOKE_CHECK(qkv.dtype == DType::kFloat32);
  CONVOKE_CHECK_EQ(qkv.rows, batch.rows);
  CONVOKE_CHECK_EQ(qkv.cols, int64_t(heads + 2 * kv.shape.kv_heads) * kv.shape.head_dim);
}

void check_attention(const AttentionArgs& args) {
  const AttentionBatch& batch = *args.batch;
  check_batch(args.qkv, args.heads, batch, args.kv);
  CONVOKE_CHECK_EQ(args.y.rows, batch.rows);
  CONVOKE_CHECK_EQ(args.y.cols, int64_t(args.heads) * args.kv.shape.head_dim);
  CONVOKE_CHECK(args.y.dtype == DType::kFloat32 || args.y.dtype == DType::kBFloat16);
}

/// Calls work(task, cost) for every task of the batch, in one order on every thread. The cost is in
/// query-position pairs.
template <typename Work>
void for_each_task(const AttentionArgs& args, int max_queries, int threads, Work work) {
  const AttentionBatch& batch = *args.batch;
  const int kv_heads = args.kv.shape.kv_heads;
  const int group = args.heads / kv_heads;  // query heads that share a key/value head
  // Tasks get smaller when there would be fewer than threads; it makes no difference to the bits.
  const int share = (batch.rows * args.heads + threads - 1) / threads;
  max_queries = std::clamp(share, 1, max_queries);
  const int tile_heads = std::min(group, max_queries);
  const int tile_rows = max_queries / tile_heads;
  constexpr int64_t kFixedCost = 32;  // of a query, whatever it sees
  for (int row = 0; row < batch.rows;) {
    int end = row;
    int64_t visible = 0;
    while (end < batch.rows && end - row < tile_rows &&
           batch.sequence[size_t(end)] == batch.sequence[size_t(row)]) {
      const size_t r = size_t(end++);
      const int64_t length = batch.context[r] + batch.path_begin[r + 1] - batch.path_begin[r];
      visible += kFixedCost + (args.window > 0 ? std::min<int64_t>(length, args.window) : length);
    }
    for (int kv_head = 0; kv_head < kv_heads; ++kv_head) {
      for (int head = 0; head < group; head += tile_heads) {
        const int head_end = std::min(group, head + tile_heads);
        const AttentionTask task = {row, end, kv_head, kv_head * group + head,
                                    kv_head * group + head_end};
        work(task, visible * (head_end - head));
      }
    }
    row = end;
  }
}

/// This thread's shares of what comes next, as far as the second-level cache has room for them.
FetchAhead next_weights(const CpuStream& stream, const AttentionArgs& args) {
  constexpr int64_t kMostBytes = 1280 * 1024;
  FetchAhead ahead;
  int64_t left = kMostBytes;
  for (int i = 0; i < FetchAhead::kRanges; ++i) {
    if (args.next[i] == nullptr) break;
    const auto& packed = static_cast<const CpuPackedMatrix&>(*args.next[i]);
    const PackedLayout& layout = packed.layout();
    const PanelRange share =
        panel_share(layout.panels, stream.index(), stream.count(), layout.panels_together());
    const int64_t bytes = std::min((share.end - share.begin) * layout.panel_bytes, left);
    ahead.next[i] = packed.data() + share.begin * layout.panel_bytes;
    ahead.lines[i] = bytes / 64;
    left -= bytes;
  }
  return ahead;
}

/// Fetches what the batch's rows will read of one head's keys and values: of every sequence up to
/// kMostBlocks blocks, the latest.
void fetch_keys_and_values(const AttentionArgs& args, int kv_head) {
  constexpr int kMostBlocks = 16;
  const AttentionBatch& batch = *args.batch;
  const KvGeometry geometry = kv_geometry(args.kv.shape);
  const size_t element = dtype_size(args.kv.shape.dtype);
  const size_t bytes = geometry.head_elements * element;
  for (int row = 0; row < batch.rows; ++row) {
    const size_t r = size_t(row);
    if (row > 0 && batch.sequence[r] == batch.sequence[r - 1]) continue;
    const int32_t* const table = batch.block_tables[size_t(batch.sequence[r])];
    const int end = (batch.context[r] + kKvBlockSize - 1) / kKvBlockSize;
    for (int block = std::max(0, end - kMostBlocks); block < end; ++block) {
      const auto* const tile = static_cast<const std::byte*>(args.kv.data) +
                               (size_t(table[block]) * geometry.block_elements +
                                size_t(kv_head) * geometry.head_elements) *
                                   element;
      for (size_t offset = 0; offset < bytes; offset += 64) {
        __builtin_prefetch(tile + offset, 0, 2);
      }
    }
  }
}

template <typename Element>
void move_head(const KvLayer& layer, const KvGeometry& geometry, int kv_head, const KvMove& move) {
  const auto tile = [&](int32_t slot) {
    return key_tile<Element>(layer, geometry, move.block_table[slot / kKvBlockSize], kv_head);
  };
  const Element* const source = tile(move.from);
  Element* const target = tile(move.to);
  const int from = move.from % kKvBlockSize, to = move.to % kKvBlockSize;
  for (int i = 0; i < geometry.head_dim; ++i) {
    target[key_index<Element>(to, i)] = source[key_index<Element>(from, i)];
  }
  const Element* const source_values = source + geometry.key_elements;
  Element* const target_values = target + geometry.key_elements;
  for (int i = 0; i < geometry.head_dim; ++i) {
    target_values[value_index<Element>(geometry, to, i)] =
        source_values[value_index<Element>(geometry, from, i)];
  }
}

}  // namespace

size_t kv_block_bytes(const KvShape& shape) {
  check_shape(shape);
  return kv_geometry(shape).block_elements * dtype_size(shape.dtype);
}

void rope_append(CpuStream& stream, Isa isa, const RopeAppendArgs& args) {
  const AttentionBatch& batch = *args.batch;
  check_batch(args.qkv, args.heads, batch, args.kv);
  const AttentionKernels& kernels = kernels_for(isa);
  // Rows of one head stay together: neighbouring slots of a tile share cache lines.
  const int64_t units = int64_t(args.kv.shape.kv_heads) * batch.rows;
  const int64_t first = units * stream.index() / stream.count();
  const int64_t last = units * (stream.index() + 1) / stream.count();
  for (int64_t unit = first; unit < last; ++unit) {
    kernels.rope_append(args, int(unit % batch.rows), int(unit / batch.rows));
  }
  stream.barrier();
}

void attention(CpuStream& stream, Isa isa, const AttentionArgs& args) {
  check_attention(args);
  const AttentionKernels& kernels = attend_kernels_for(isa, args.kv.shape);

  FetchAhead ahead = next_weights(stream, args);
  int64_t total = 0;
  for_each_task(args, kernels.max_queries, stream.count(),
                [&](const AttentionTask&, int64_t cost) { total += cost; });
  // A task belongs to the thread in whose share of the total its middle falls.
  int64_t before = 0;
  for_each_task(args, kernels.max_queries, stream.count(),
                [&](const AttentionTask& task, int64_t cost) {
                  if ((2 * before + cost) * stream.count() / (2 * total) == stream.index()) {
                    kernels.attend(args, task, ahead);
                  }
                  before += cost;
                });
  stream.barrier();
}

void rope_attention(CpuStream& stream, Isa isa, const RopeAppendArgs& rope,
                    const AttentionArgs& args) {
  const int kv_heads = args.kv.shape.kv_heads;
  if (kv_heads % stream.count() != 0) {
    rope_append(stream, isa, rope);
    attention(stream, isa, args);
    return;
  }
  check_attention(args);
  const AttentionBatch& batch = *args.batch;
  const int first = kv_heads / stream.count() * stream.index();
  const int last = first + kv_heads / stream.count();
  const AttentionKernels& rope_kernels = kernels_for(isa);
  const AttentionKernels& kernels = attend_kernels_for(isa, args.kv.shape);
  FetchAhead ahead = next_weights(stream, args);
  for (int kv_head = first; kv_head < last; ++kv_head) fetch_keys_and_values(args, kv_head);
  for (int kv_head = first; kv_head < last; ++kv_head) {
    for (int row = 0; row < batch.rows; ++row) {
      rope_kernels.rope_append(rope, row, kv_head);
      fetch_lines(ahead, kLinesPerStep);
    }
  }
  // As if one thread did it all: there is no need for tasks to be smaller.
  for_each_task(args, kernels.max_queries, 1, [&](const AttentionTask& task, int64_t) {
    if (first <= task.kv_head && task.kv_head < last) kernels.attend(args, task, ahead);
  });
  stream.barrier();
}

void move_kv(CpuStream& stream, Isa, std::span<const KvLayer> layers,
             std::span<const KvMove> moves) {
  // A unit is one head of one layer; its moves stay in order within one thread.
  int64_t units = 0;
  for (const KvLayer& layer : layers) units += layer.shape.kv_heads;
  const int64_t first = units * stream.index() / stream.count();
  const int64_t last = units * (stream.index() + 1) / stream.count();
  int64_t unit = 0;
  for (const KvLayer& layer : layers) {
    const KvGeometry geometry = kv_geometry(layer.shape);
    for (int kv_head = 0; kv_head < layer.shape.kv_heads; ++kv_head, ++unit) {
      if (unit < first || unit >= last) continue;
      for (const KvMove& move : moves) {
        if (layer.shape.dtype == DType::kBFloat16) {
          move_head<uint16_t>(layer, geometry, kv_head, move);
        } else {
          move_head<float>(layer, geometry, kv_head, move);
        }
      }
    }
  }
  stream.barrier();
}

}  // namespace convoke::cpu
