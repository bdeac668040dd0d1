// Attention on AMX tiles, for a bfloat16 cache and heads that are a multiple of 32.
//
// TDPBF16PS multiplies pairs of bfloat16, so queries and weights, which are float32, go in as the
// sum of two: the value rounded to bfloat16 and what that leaves, rounded again. Together they hold
// 16 bits or more; keys and values are bfloat16 anyway.
//
// A row of a product is computed the same whatever the other rows of the tile hold, so queries may
// share tiles. The sums of values go by blocks of 16 positions, aligned to absolute position. A
// block that a row does not see whole, or sees through path slots, is copied for that row alone to
// a tile in order of position, zero where the row sees nothing: what the row adds up is then the
// same wherever its values lie.
#include "kernels/cpu/attention_kernels.h"

#if defined(__AMX_BF16__) && defined(__AVX512F__)
#define CONVOKE_SIMD_AVX512
#include "kernels/cpu/attention_task.h"

namespace convoke::cpu::avx512 {
namespace {

// Assembly of our own: GCC 12's intrinsics declare no memory operands for tile loads and too small
// a one for the configuration.
template <int T>
CONVOKE_SIMD_INLINE void tile_zero() {
  __asm__ volatile("tilezero %%tmm%c0" ::"i"(T));
}
template <int T>
CONVOKE_SIMD_INLINE void tile_load(const void* source, int64_t row_bytes) {
  __asm__ volatile("tileloadd (%0,%1,1), %%tmm%c2" ::"r"(source), "r"(row_bytes), "i"(T)
                   : "memory");
}
template <int T>
CONVOKE_SIMD_INLINE void tile_store(void* target, int64_t row_bytes) {
  __asm__ volatile("tilestored %%tmm%c2, (%0,%1,1)" ::"r"(target), "r"(row_bytes), "i"(T)
                   : "memory");
}
/// Sums += A * B.
template <int Sums, int A, int B>
CONVOKE_SIMD_INLINE void tile_multiply_add() {
  __asm__ volatile("tdpbf16ps %%tmm%c2, %%tmm%c1, %%tmm%c0" ::"i"(Sums), "i"(A), "i"(B));
}

/// The operand of LDTILECFG (Intel 64 and IA-32 Architectures Software Developer's Manual).
struct alignas(64) TileShapes {
  uint8_t palette = 1;
  uint8_t start_row = 0;
  uint8_t reserved[14] = {};
  uint16_t row_bytes[16] = {};
  uint8_t rows[16] = {};

  void set(int tile, int row_count, int bytes) {
    rows[tile] = uint8_t(row_count);
    row_bytes[tile] = uint16_t(bytes);
  }
  void use() const { __asm__ volatile("ldtilecfg %0" ::"m"(*this)); }
};

class AmxProducts {
 public:
  using Element = uint16_t;
  static constexpr int kMaxQueries = 16;

  // Scores use tiles 0-1 for sums, 2-3 for the halves of the queries, 6-7 for keys; values use
  // tiles 0-3 for sums, 4-5 for the halves of the weights, 6-7 for values.
  explicit AmxProducts(const TaskView& view) : view_(view) {
    for (int t = 0; t < 4; ++t) {
      score_shapes_.set(t, view.queries, 64);
      value_shapes_.set(t, view.queries, 64);
    }
    for (int t = 4; t < 6; ++t) value_shapes_.set(t, view.queries, 2 * kKvBlockSize);
    for (int t = 0; t < 4; ++t) row_shapes_.set(t, view.heads, 64);
    for (int t = 4; t < 6; ++t) row_shapes_.set(t, view.heads, 2 * kKvBlockSize);
    for (int t = 6; t < 8; ++t) {
      score_shapes_.set(t, 16, 64);
      value_shapes_.set(t, kKvBlockSize / 2, 64);
      row_shapes_.set(t, kKvBlockSize / 2, 64);
    }
  }
  AmxProducts(const AmxProducts&) = delete;
  AmxProducts& operator=(const AmxProducts&) = delete;
  ~AmxProducts() { __asm__ volatile("tilerelease"); }

  void set_query(int m, const float* query) {
    for (int j = 0; j < view_.geometry.head_dim; j += kLanes) {
      split(load(query + j), queries_[0][m] + j, queries_[1][m] + j);
    }
  }

  void score(const Element* const* tiles, float* const* outs, int count, int stride) {
    use(score_shapes_);
    int n = 0;
    for (; n + 1 < count; n += 2) {
      tile_zero<0>();
      tile_zero<1>();
      for (int j = 0; j < view_.geometry.head_dim; j += 32) {
        load_queries(j);
        tile_load<6>(tiles[n] + j * kKvBlockSize, 64);
        tile_load<7>(tiles[n + 1] + j * kKvBlockSize, 64);
        tile_multiply_add<0, 2, 6>();
        tile_multiply_add<1, 2, 7>();
        tile_multiply_add<0, 3, 6>();
        tile_multiply_add<1, 3, 7>();
      }
      tile_store<0>(outs[n], stride * 4);
      tile_store<1>(outs[n + 1], stride * 4);
    }
    if (n == count) return;
    tile_zero<0>();
    for (int j = 0; j < view_.geometry.head_dim; j += 32) {
      load_queries(j);
      tile_load<6>(tiles[n] + j * kKvBlockSize, 64);
      tile_multiply_add<0, 2, 6>();
      tile_multiply_add<0, 3, 6>();
    }
    tile_store<0>(outs[n], stride * 4);
  }

  /// Blocks that all rows have committed are shared; each row has the blocks before and after them
  /// to itself.
  void add(const ValueSums& target, FetchAhead& ahead) {
    const int base = target.base;
    int shared_begin = base, shared_end = base + kChunk;
    for (int i = 0; i < view_.rows; ++i) {
      const Visible chunk = view_.within(i, base);
      shared_begin = max_of(shared_begin, chunk.begin);
      shared_end = min_of(shared_end, chunk.begin < chunk.context ? chunk.context : base);
      split_weights(i, chunk, target);
    }
    shared_begin = (shared_begin + kKvBlockSize - 1) / kKvBlockSize;
    shared_end = shared_end / kKvBlockSize;
    if (shared_end <= shared_begin) shared_begin = shared_end = base / kKvBlockSize;

    for (int i = 0; i < view_.rows; ++i) add_row(target, i, base / kKvBlockSize, shared_begin);
    add_pending(target);
    if (shared_begin < shared_end) {
      use(value_shapes_);
      for (int column = 0; column < view_.geometry.width; column += 64) {
        load_sums(target.sums, column);
        for (int block = shared_begin; block < shared_end; ++block) {
          add_block(view_.values_of_block<Element>(block), 0, block - base / kKvBlockSize, column);
        }
        store_sums(target.sums, column);
      }
    }
    for (int i = 0; i < view_.rows; ++i) {
      add_row(target, i, shared_end, base / kKvBlockSize + kChunkBlocks);
      fetch_lines(ahead, kLinesPerStep);
    }
    add_pending(target);
  }

 private:
  /// A block of values for the queries of one row.
  struct RowBlock {
    const Element* values = nullptr;
    int query = 0;  ///< the first
    int index = 0;  ///< in the chunk
  };

  void use(const TileShapes& shapes) {
    if (&shapes == in_use_) return;
    shapes.use();
    in_use_ = &shapes;
  }

  /// value = first + second + an error of at most 2^-17 of it. The conversion flushes subnormals,
  /// as the products do anyway.
  static CONVOKE_SIMD_INLINE void split(Floats value, uint16_t* first, uint16_t* second) {
    const __m256i rounded = (__m256i)_mm512_cvtneps_pbh(value.part[0]);
    _mm256_storeu_si256((__m256i*)first, rounded);
    const __m512 part = (__m512)_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16);
    _mm256_storeu_si256((__m256i*)second, (__m256i)_mm512_cvtneps_pbh(value.part[0] - part));
  }

  void load_queries(int element) const {
    tile_load<2>(queries_[0][0] + element, sizeof(queries_[0][0]));
    tile_load<3>(queries_[1][0] + element, sizeof(queries_[1][0]));
  }

  void split_weights(int row, const Visible& chunk, const ValueSums& target) {
    const int begin = (chunk.begin - target.base) / kLanes * kLanes, end = chunk.end - target.base;
    for (int m = row * view_.heads; m < (row + 1) * view_.heads; ++m) {
      for (int i = begin; i < end; i += kLanes) {
        split(load(target.weights + m * kChunk + i), weights_[0][m] + i, weights_[1][m] + i);
      }
    }
  }

  int column_tiles(int column) const { return (view_.geometry.width - column) / kLanes; }

  static constexpr int kRowBytes = kMaxWidth * 4;  ///< of sums
  void load_sums(const float* sums, int column) const {
    sums += column;
    const int count = column_tiles(column);
    tile_load<0>(sums, kRowBytes);
    tile_load<1>(sums + 16, kRowBytes);
    if (count < 4) return;
    tile_load<2>(sums + 32, kRowBytes);
    tile_load<3>(sums + 48, kRowBytes);
  }
  void store_sums(float* sums, int column) const {
    sums += column;
    const int count = column_tiles(column);
    tile_store<0>(sums, kRowBytes);
    tile_store<1>(sums + 16, kRowBytes);
    if (count < 4) return;
    tile_store<2>(sums + 32, kRowBytes);
    tile_store<3>(sums + 48, kRowBytes);
  }

  /// sums += weights of the chunk's `index`th block * values, in up to 64 columns, for the queries
  /// from m on.
  CONVOKE_SIMD_INLINE void add_block(const Element* values, int m, int index, int column) const {
    const int row_bytes = view_.geometry.width * 4;
    const Element* const tile = values + column * 2;
    tile_load<4>(weights_[0][m] + index * kKvBlockSize, sizeof(weights_[0][0]));
    tile_load<5>(weights_[1][m] + index * kKvBlockSize, sizeof(weights_[1][0]));
    tile_load<6>(tile, row_bytes);
    tile_load<7>(tile + 32, row_bytes);
    tile_multiply_add<0, 4, 6>();
    tile_multiply_add<1, 4, 7>();
    tile_multiply_add<0, 5, 6>();
    tile_multiply_add<1, 5, 7>();
    if (column_tiles(column) < 4) return;
    tile_load<6>(tile + 64, row_bytes);
    tile_load<7>(tile + 96, row_bytes);
    tile_multiply_add<2, 4, 6>();
    tile_multiply_add<3, 4, 7>();
    tile_multiply_add<2, 5, 6>();
    tile_multiply_add<3, 5, 7>();
  }

  /// The part of one row's visible positions that lies in blocks [first, last), in tiles that hold
  /// the row's queries alone.
  void add_row(const ValueSums& target, int row, int first, int last) {
    const Visible chunk = view_.within(row, target.base);
    if (chunk.begin >= chunk.end) return;
    first = max_of(first, chunk.begin / kKvBlockSize);
    last = min_of(last, (chunk.end + kKvBlockSize - 1) / kKvBlockSize);
    for (int block = first; block < last; ++block) {
      const RowBlock next = {values_for_row(row, chunk, block), row * view_.heads,
                             block - target.base / kKvBlockSize};
      add_pending(target);
      pending_ = next;
    }
  }

  /// Adds what the last call of add_row() put off: tiles are loaded from memory only, and what has
  /// just been copied takes a while to get there.
  void add_pending(const ValueSums& target) {
    if (pending_.values == nullptr) return;
    use(view_.rows == 1 ? value_shapes_ : row_shapes_);
    float* const sums = target.sums + pending_.query * kMaxWidth;
    for (int column = 0; column < view_.geometry.width; column += 64) {
      load_sums(sums, column);
      add_block(pending_.values, pending_.query, pending_.index, column);
      store_sums(sums, column);
    }
    pending_ = {};
  }

  /// The value tile of a block as the row sees it.
  const Element* values_for_row(int row, const Visible& chunk, int block) {
    const int begin = block * kKvBlockSize;
    if (chunk.begin <= begin && begin + kKvBlockSize <= chunk.context) {
      return view_.values_of_block<Element>(block);
    }
    const int width = view_.geometry.width;
    Element* const copy = copied_values_[turn_];
    turn_ = 1 - turn_;
    for (int pair = 0; pair < kKvBlockSize / 2; ++pair) {
      const int place = begin + 2 * pair;
      const int first = slot_at(row, chunk, place), second = slot_at(row, chunk, place + 1);
      Element* const out = copy + pair * width * 2;
      for (int j = 0; j < width; j += kLanes) {
        const __m512i low = half_of(first, j);
        const __m512i high = half_of(second, j);
        _mm512_storeu_si512(out + j * 2, _mm512_or_si512(low, _mm512_slli_epi32(high, 16)));
      }
    }
    return copy;
  }

  /// -1 for a position that the row does not see.
  int slot_at(int row, const Visible& chunk, int position) const {
    if (position < chunk.begin || chunk.end <= position) return -1;
    return position < chunk.context ? position : *view_.path_from(row, position);
  }

  /// Sixteen elements of a slot's value, each in the low half of a word.
  CONVOKE_SIMD_INLINE __m512i half_of(int slot, int column) const {
    if (slot < 0) return _mm512_setzero_si512();
    const int place = slot % kKvBlockSize;
    const Element* const values = view_.values_of_block<Element>(slot / kKvBlockSize);
    const __m512i words =
        _mm512_loadu_si512(values + (place / 2 * view_.geometry.width + column) * 2);
    return place % 2 != 0 ? _mm512_srli_epi32(words, 16)
                          : _mm512_and_si512(words, _mm512_set1_epi32(0xffff));
  }

  const TaskView& view_;
  TileShapes score_shapes_, value_shapes_, row_shapes_;
  const TileShapes* in_use_ = nullptr;
  alignas(64) uint16_t queries_[2][kMaxQueries][kMaxHeadDim];
  alignas(64) uint16_t weights_[2][kMaxQueries][kChunk];
  alignas(64) Element copied_values_[2][kKvBlockSize * kMaxWidth];
  int turn_ = 0;
  RowBlock pending_;
};

void attend_with_tiles(const AttentionArgs& args, const AttentionTask& task, FetchAhead& ahead) {
  Attender<AmxProducts>(args, task, ahead).run();
}

constexpr AttentionKernels kTileKernels = {AmxProducts::kMaxQueries, attend_with_tiles, nullptr};

}  // namespace
}  // namespace convoke::cpu::avx512

namespace convoke::cpu::amx {
const AttentionKernels* attention_kernels() {
  return &avx512::kTileKernels;
}
}  // namespace convoke::cpu::amx

#else

namespace convoke::cpu::amx {
const AttentionKernels* attention_kernels() {
  return nullptr;
}
}  // namespace convoke::cpu::amx

#endif
