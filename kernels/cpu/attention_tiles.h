// The kernels of attention_kernels.h, written once for sixteen lanes; included by one .cc file per
// instruction set, which defines the macro that simd16.h asks for.
#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/kv_tiles.h"
#include "kernels/cpu/simd16.h"

namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE {
namespace {

// How many queries share a load, and how many accumulators of sixteen lanes fit the registers.
#if defined(CONVOKE_SIMD_AVX512)
constexpr int kMaxQueries = 8, kAccumulators = 16;
#elif defined(CONVOKE_SIMD_AVX2)
constexpr int kMaxQueries = 4, kAccumulators = 4;
#else
constexpr int kMaxQueries = 2, kAccumulators = 2;
#endif

/// Positions per step of the online softmax; steps are aligned to absolute position. Changing it
/// changes bits.
constexpr int kChunk = 256;
constexpr int kChunkBlocks = kChunk / kKvBlockSize;
constexpr int kPathBlocks = 8;  ///< blocks of path slots that are scored at a time
constexpr int kMaxWidth = (kMaxHeadDim + 15) / 16 * 16;

constexpr int min_of(int a, int b) {
  return a < b ? a : b;
}
constexpr int max_of(int a, int b) {
  return a > b ? a : b;
}

/// Reads tiles as pairs: of two elements of sixteen keys, or of sixteen elements of two values.
struct Bf16Tiles {
  using Element = uint16_t;
  static CONVOKE_SIMD_INLINE Floats first_keys(const Element* tile, int pair) {
    return load_bf16_firsts(tile + pair * 2 * kLanes);
  }
  static CONVOKE_SIMD_INLINE Floats second_keys(const Element* tile, int pair) {
    return load_bf16_seconds(tile + pair * 2 * kLanes);
  }
  static CONVOKE_SIMD_INLINE Floats first_values(const Element* tile, int width, int pair,
                                                 int column) {
    return load_bf16_firsts(tile + (pair * width + column) * 2);
  }
  static CONVOKE_SIMD_INLINE Floats second_values(const Element* tile, int width, int pair,
                                                  int column) {
    return load_bf16_seconds(tile + (pair * width + column) * 2);
  }
};
struct FloatTiles {
  using Element = float;
  static CONVOKE_SIMD_INLINE Floats first_keys(const Element* tile, int pair) {
    return load(tile + pair * 2 * kLanes);
  }
  static CONVOKE_SIMD_INLINE Floats second_keys(const Element* tile, int pair) {
    return load(tile + pair * 2 * kLanes + kLanes);
  }
  static CONVOKE_SIMD_INLINE Floats first_values(const Element* tile, int width, int pair,
                                                 int column) {
    return load(tile + 2 * pair * width + column);
  }
  static CONVOKE_SIMD_INLINE Floats second_values(const Element* tile, int width, int pair,
                                                  int column) {
    return load(tile + (2 * pair + 1) * width + column);
  }
};

// --- Scores ---

/// Scores of M queries against `Count` key tiles: outs[n][m * stride ..+16]. `queries` holds
/// element j of query m at [j * M + m].
template <typename Tiles, int M, int Count>
CONVOKE_SIMD_INLINE void score_together(const float* queries, int head_dim,
                                        const typename Tiles::Element* const* tiles,
                                        float* const* outs, int stride) {
  Floats sums[Count][M];
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) sums[n][m] = zero();
  }
  for (int pair = 0; pair < head_dim / 2; ++pair) {
    const float* const elements = queries + pair * 2 * M;
#pragma GCC unroll 16
    for (int n = 0; n < Count; ++n) {
      const Floats first = Tiles::first_keys(tiles[n], pair);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sums[n][m] = fma(broadcast(elements[m]), first, sums[n][m]);
      const Floats second = Tiles::second_keys(tiles[n], pair);
#pragma GCC unroll 8
      for (int m = 0; m < M; ++m) sums[n][m] = fma(broadcast(elements[M + m]), second, sums[n][m]);
    }
  }
#pragma GCC unroll 16
  for (int n = 0; n < Count; ++n) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) store(outs[n] + m * stride, sums[n][m]);
  }
}

/// Any number of tiles, in groups as large as the registers hold, then half as large, and so on.
template <typename Tiles, int M, int Count = max_of(1, min_of(8, kAccumulators / M))>
void score_tiles(const float* queries, int head_dim, const typename Tiles::Element* const* tiles,
                 float* const* outs, int count, int stride) {
  int n = 0;
  for (; n + Count <= count; n += Count) {
    score_together<Tiles, M, Count>(queries, head_dim, tiles + n, outs + n, stride);
  }
  if constexpr (Count > 1) {
    score_tiles<Tiles, M, Count / 2>(queries, head_dim, tiles + n, outs + n, count - n, stride);
  }
}

// --- Values ---

/// What M queries add up: sums[m][column] += weight[m][position] * value[position][column].
struct ValueSum {
  const KvLayer* kv;
  const KvGeometry* geometry;
  const int32_t* block_table;
  int kv_head;
  const float* weights;  ///< [M] rows of kChunk, first column at position `base`
  int base;
  float* sums;  ///< [M] rows of kMaxWidth

  template <typename Tiles>
  CONVOKE_SIMD_INLINE const typename Tiles::Element* value_tile(int slot) const {
    using Element = typename Tiles::Element;
    return key_tile<const Element>(*kv, *geometry, block_table[slot / kKvBlockSize], kv_head) +
           geometry->key_elements;
  }
};

/// Columns [column, column + 16 Count) over the slots [begin, end), each at its own position.
template <typename Tiles, int M, int Count>
CONVOKE_SIMD_INLINE void add_slots_together(const ValueSum& job, int begin, int end, int column) {
  Floats sums[M][Count];
  const int width = job.geometry->width;
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < Count; ++n) {
      sums[m][n] = load(job.sums + m * kMaxWidth + column + n * kLanes);
    }
  }
  const auto add = [&](Floats value, const float* weight, int n) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      sums[m][n] = fma(broadcast(weight[m * kChunk]), value, sums[m][n]);
    }
  };
  for (int position = begin; position < end;) {
    const auto* const tile = job.value_tile<Tiles>(position);
    const int place = position % kKvBlockSize;
    const int stop = min_of(kKvBlockSize, place + end - position);
    const float* const weights = job.weights + (position - job.base);
    int i = place;
    if (i % 2 != 0) {
#pragma GCC unroll 8
      for (int n = 0; n < Count; ++n) {
        add(Tiles::second_values(tile, width, i / 2, column + n * kLanes), weights, n);
      }
      ++i;
    }
    for (; i + 1 < stop; i += 2) {
#pragma GCC unroll 8
      for (int n = 0; n < Count; ++n) {
        add(Tiles::first_values(tile, width, i / 2, column + n * kLanes), weights + (i - place), n);
        add(Tiles::second_values(tile, width, i / 2, column + n * kLanes),
            weights + (i - place) + 1, n);
      }
    }
    if (i < stop) {
#pragma GCC unroll 8
      for (int n = 0; n < Count; ++n) {
        add(Tiles::first_values(tile, width, i / 2, column + n * kLanes), weights + (i - place), n);
      }
    }
    position += stop - place;
  }
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < Count; ++n) {
      store(job.sums + m * kMaxWidth + column + n * kLanes, sums[m][n]);
    }
  }
}

template <typename Tiles, int M, int Count = max_of(1, min_of(4, kAccumulators / M))>
void add_slots(const ValueSum& job, int begin, int end, int column) {
  const int width = job.geometry->width;
  for (; column + Count * kLanes <= width; column += Count * kLanes) {
    add_slots_together<Tiles, M, Count>(job, begin, end, column);
  }
  if constexpr (Count > 1) add_slots<Tiles, M, Count / 2>(job, begin, end, column);
}

/// The values of path slots: slots[i] is at position begin + i.
template <typename Tiles>
void add_path(const ValueSum& job, int queries, int begin, int end, const int32_t* slots) {
  const int width = job.geometry->width;
  for (int position = begin; position < end; ++position) {
    const int slot = slots[position - begin];
    const auto* const tile = job.value_tile<Tiles>(slot);
    const int place = slot % kKvBlockSize;
    const float* const weights = job.weights + (position - job.base);
    for (int column = 0; column < width; column += kLanes) {
      const Floats value = place % 2 == 0 ? Tiles::first_values(tile, width, place / 2, column)
                                          : Tiles::second_values(tile, width, place / 2, column);
      for (int m = 0; m < queries; ++m) {
        float* const sum = job.sums + m * kMaxWidth + column;
        store(sum, fma(broadcast(weights[m * kChunk]), value, load(sum)));
      }
    }
  }
}

// --- Functions by number of queries ---

template <typename Tiles>
struct ByQueries {
  using Element = typename Tiles::Element;
  void (*score)(const float* queries, int head_dim, const Element* const* tiles, float* const* outs,
                int count, int stride);
  void (*add)(const ValueSum& job, int begin, int end, int column);
};

template <typename Tiles, int M>
constexpr ByQueries<Tiles> kWith = {score_tiles<Tiles, M>, add_slots<Tiles, M>};

template <typename Tiles>
const ByQueries<Tiles>& by_queries(int queries) {
  static constexpr ByQueries<Tiles> kAll[] = {
    kWith<Tiles, 1>,
    kWith<Tiles, 2>,
#if defined(CONVOKE_SIMD_AVX512) || defined(CONVOKE_SIMD_AVX2)
    kWith<Tiles, 3>,
    kWith<Tiles, 4>,
#endif
#if defined(CONVOKE_SIMD_AVX512)
    kWith<Tiles, 5>,
    kWith<Tiles, 6>,
    kWith<Tiles, 7>,
    kWith<Tiles, 8>,
#endif
  };
  static_assert(sizeof(kAll) / sizeof(kAll[0]) == kMaxQueries);
  return kAll[queries - 1];
}

// --- One task ---

/// The running state of a task's queries. Query (row, head) has index row * heads + head.
template <typename Tiles>
class Attender {
 public:
  using Element = typename Tiles::Element;

  Attender(const AttentionArgs& args, const AttentionTask& task)
      : args_(args),
        task_(task),
        geometry_(kv_geometry(args.kv.shape)),
        block_table_(
            args.batch->block_tables[size_t(args.batch->sequence[size_t(task.row_begin)])]),
        rows_(task.row_end - task.row_begin),
        heads_(task.head_end - task.head_begin),
        queries_(rows_ * heads_) {
    const AttentionBatch& batch = *args.batch;
    for (int i = 0; i < rows_; ++i) {
      const size_t r = size_t(task.row_begin + i);
      Row& row = visible_[i];
      row.context = batch.context[r];
      paths_[i] = batch.path_slots.data() + batch.path_begin[r];
      row.end = row.context + batch.path_begin[r + 1] - batch.path_begin[r];
      row.begin = args.window > 0 ? max_of(0, batch.position[r] - args.window + 1) : 0;
      CONVOKE_CHECK_LT(row.begin, row.end);
    }
  }

  void run() {
    load_queries();
    int begin = INT32_MAX, end = 0;
    for (int i = 0; i < rows_; ++i) {
      begin = min_of(begin, visible_[i].begin);
      end = max_of(end, visible_[i].end);
    }
    for (int base = begin / kChunk * kChunk; base < end; base += kChunk) {
      score_committed(base);
      score_paths(base);
      for (int i = 0; i < rows_; ++i) {
        const Row chunk = within(i, base);
        for (int m = i * heads_; chunk.begin < chunk.end && m < (i + 1) * heads_; ++m) {
          soften(m, chunk.begin - base, chunk.end - base);
        }
      }
      add_values(base);
    }
    finish();
  }

 private:
  /// What a row sees: positions [begin, context) at slots of the same number, then [context, end)
  /// at path slots.
  struct Row {
    int begin, context, end;
  };

  /// The row's visible positions in the chunk at `base`; none if begin >= end.
  Row within(int i, int base) const {
    const Row& row = visible_[i];
    const int begin = max_of(row.begin, base), end = min_of(row.end, base + kChunk);
    const int context = max_of(begin, min_of(row.context, end));
    return {begin, context, end};
  }

  /// The path slots of a row from a position on.
  const int32_t* path_from(int i, int position) const {
    return paths_[i] + (position - visible_[i].context);
  }

  const Element* keys_of_block(int block) const {
    return key_tile<const Element>(args_.kv, geometry_, block_table_[block], task_.kv_head);
  }

  void load_queries() {
    const int head_dim = geometry_.head_dim;
    for (int m = 0; m < queries_; ++m) {
      const float* const query = args_.qkv.template row<float>(task_.row_begin + m / heads_) +
                                 size_t(task_.head_begin + m % heads_) * size_t(head_dim);
      for (int j = 0; j < head_dim; ++j) query_elements_[j * queries_ + m] = query[j];
      top_[m] = -__builtin_inff();
      total_[m] = 0;
      for (int j = 0; j < geometry_.width; ++j) sums_[m * kMaxWidth + j] = 0;
    }
  }

  /// Every block of the chunk in which some row sees a committed position, against all queries.
  void score_committed(int base) {
    const Element* tiles[kChunkBlocks];
    float* outs[kChunkBlocks];
    int count = 0;
    for (int begin = base; begin < base + kChunk; begin += kKvBlockSize) {
      bool seen = false;
      for (int i = 0; i < rows_; ++i) {
        const Row chunk = within(i, base);
        seen |= chunk.begin < begin + kKvBlockSize && begin < chunk.context &&
                chunk.begin < chunk.context;
      }
      if (!seen) continue;
      tiles[count] = keys_of_block(begin / kKvBlockSize);
      outs[count++] = scores_ + (begin - base);
    }
    by_queries<Tiles>(queries_).score(query_elements_, geometry_.head_dim, tiles, outs, count,
                                      kChunk);
  }

  /// Calls visit(row index, position, slot) for the path positions of the chunk.
  template <typename Visit>
  CONVOKE_SIMD_INLINE void for_each_path_slot(int base, Visit visit) const {
    for (int i = 0; i < rows_; ++i) {
      const Row chunk = within(i, base);
      for (int p = chunk.context; p < chunk.end; ++p) visit(i, p, *path_from(i, p));
    }
  }

  /// Blocks that hold path slots against all queries, some blocks at a time; the scores that belong
  /// to a row's path are then put at its positions.
  void score_paths(int base) {
    for (int from = 0;;) {
      constexpr int kNone = INT32_MAX;
      int first = kNone;
      for_each_path_slot(base, [&](int, int, int slot) {
        const int block = slot / kKvBlockSize;
        if (block >= from) first = min_of(first, block);
      });
      if (first == kNone) return;
      bool used[kPathBlocks] = {};
      for_each_path_slot(base, [&](int, int, int slot) {
        const int block = slot / kKvBlockSize - first;
        if (0 <= block && block < kPathBlocks) used[block] = true;
      });
      const Element* tiles[kPathBlocks];
      float* outs[kPathBlocks];
      int count = 0;
      for (int block = 0; block < kPathBlocks; ++block) {
        if (!used[block]) continue;
        tiles[count] = keys_of_block(first + block);
        outs[count++] = path_scores_ + block * kKvBlockSize;
      }
      constexpr int kStride = kPathBlocks * kKvBlockSize;
      by_queries<Tiles>(queries_).score(query_elements_, geometry_.head_dim, tiles, outs, count,
                                        kStride);
      for_each_path_slot(base, [&](int i, int position, int slot) {
        const int offset = slot - first * kKvBlockSize;
        if (offset < 0 || offset >= kStride) return;
        for (int m = i * heads_; m < (i + 1) * heads_; ++m) {
          scores_[m * kChunk + position - base] = path_scores_[m * kStride + offset];
        }
      });
      from = first + kPathBlocks;
    }
  }

  /// Turns the scores [begin, end) of the chunk into weights, relative to the largest score so far,
  /// and brings what was added up before to the same scale.
  void soften(int m, int begin, int end) {
    float* const scores = scores_ + m * kChunk;
    const Floats scale = broadcast(args_.scale), nothing = broadcast(-__builtin_inff());
    const int first = begin / kLanes * kLanes;
    Floats tops = nothing;
    for (int i = first; i < end; i += kLanes) {
      Floats score = load(scores + i) * scale;
      if (i < begin || end < i + kLanes) score = select_range(score, nothing, begin - i, end - i);
      tops = max(score, tops);
      store(scores + i, score);
    }
    const float chunk_top = max_lanes(tops);
    const float top = chunk_top > top_[m] ? chunk_top : top_[m];
    const Floats tops_now = broadcast(top);
    Floats totals = zero();
    for (int i = first; i < end; i += kLanes) {
      const Floats weight = exp_of_nonpositive(load(scores + i) - tops_now);
      totals = totals + weight;
      store(scores + i, weight);
    }
    const Floats shrink = exp_of_nonpositive(broadcast(top_[m]) - tops_now);
    total_[m] = total_[m] * shrink.part[0][0] + sum_lanes(totals);
    top_[m] = top;
    float* const sums = sums_ + m * kMaxWidth;
    for (int j = 0; j < geometry_.width; j += kLanes) store(sums + j, load(sums + j) * shrink);
  }

  /// Adds the chunk's values. Positions that all rows have committed are shared; what a row sees
  /// before and after them is added for the row alone. Each row's positions stay in order.
  void add_values(int base) {
    int shared_begin = base, shared_end = base + kChunk;
    for (int i = 0; i < rows_; ++i) {
      const Row chunk = within(i, base);
      shared_begin = max_of(shared_begin, chunk.begin);
      shared_end = min_of(shared_end, chunk.begin < chunk.context ? chunk.context : base);
    }
    shared_end = max_of(shared_begin, shared_end);
    add_rows(base, shared_begin, shared_end, true);
    if (shared_begin < shared_end) {
      const ValueSum job = values_of(0, base);
      by_queries<Tiles>(queries_).add(job, shared_begin, shared_end, 0);
    }
    add_rows(base, shared_begin, shared_end, false);
  }

  void add_rows(int base, int shared_begin, int shared_end, bool before) {
    for (int i = 0; i < rows_; ++i) {
      const Row chunk = within(i, base);
      const ValueSum job = values_of(i, base);
      const int begin = before ? chunk.begin : max_of(chunk.begin, shared_end);
      const int end = before ? min_of(chunk.context, shared_begin) : chunk.context;
      if (begin < end) by_queries<Tiles>(heads_).add(job, begin, end, 0);
      if (!before && chunk.context < chunk.end) {
        add_path<Tiles>(job, heads_, chunk.context, chunk.end, path_from(i, chunk.context));
      }
    }
  }

  ValueSum values_of(int row, int base) {
    const int m = row * heads_;
    return {&args_.kv, &geometry_,           block_table_, task_.kv_head, scores_ + m * kChunk,
            base,      sums_ + m * kMaxWidth};
  }

  void finish() const {
    for (int m = 0; m < queries_; ++m) {
      const int64_t row = task_.row_begin + m / heads_;
      const int64_t column = int64_t(task_.head_begin + m % heads_) * geometry_.head_dim;
      const Floats total = broadcast(total_[m]);
      for (int j = 0; j < geometry_.head_dim; j += kLanes) {
        const int lanes = min_of(kLanes, geometry_.head_dim - j);
        const Floats value = load(sums_ + m * kMaxWidth + j) / total;
        if (args_.y.dtype == DType::kBFloat16) {
          store_bf16_some(args_.y.template row<uint16_t>(row) + column + j, value, lanes);
        } else {
          store_some(args_.y.template row<float>(row) + column + j, value, lanes);
        }
      }
    }
  }

  const AttentionArgs& args_;
  const AttentionTask task_;
  const KvGeometry geometry_;
  const int32_t* const block_table_;
  const int rows_, heads_, queries_;
  Row visible_[kMaxQueries];
  const int32_t* paths_[kMaxQueries];
  float top_[kMaxQueries];    ///< largest score so far
  float total_[kMaxQueries];  ///< sum of the weights so far
  alignas(64) float query_elements_[kMaxQueries * kMaxHeadDim];
  alignas(64) float scores_[kMaxQueries * kChunk];
  alignas(64) float path_scores_[kMaxQueries * kPathBlocks * kKvBlockSize];
  alignas(64) float sums_[kMaxQueries * kMaxWidth];
};

void attend(const AttentionArgs& args, const AttentionTask& task) {
  if (args.kv.shape.dtype == DType::kBFloat16) {
    Attender<Bf16Tiles>(args, task).run();
  } else {
    Attender<FloatTiles>(args, task).run();
  }
}

// --- Rotation and append ---

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

/// Writes key and value of one slot and nothing beside them: other threads may be writing the
/// neighbouring slots.
template <typename Element>
void store_slot(Element* keys, const KvGeometry& geometry, int place, const Element* key,
                const Element* value) {
  constexpr int kStep = sizeof(Element) == 2 ? 2 : 1;  // a pair of bfloat16 goes as one word
  for (int j = 0; j < geometry.head_dim; j += kStep) {
    __builtin_memcpy(keys + key_index<Element>(place, j), key + j, kStep * sizeof(Element));
  }
  Element* const values = keys + geometry.key_elements;
  for (int j = 0; j < geometry.head_dim; ++j) {
    values[value_index<Element>(geometry, place, j)] = value[j];
  }
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

constexpr AttentionKernels kKernels = {kMaxQueries, attend, rope_append_row};

}  // namespace

const AttentionKernels* attention_kernels() {
  return &kKernels;
}

}  // namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE
