// The kernels of attention_kernels.h in vectors of sixteen lanes, written once; included by one .cc
// file per instruction set, which defines the macro that simd16.h asks for.
#include "kernels/cpu/attention_task.h"
#include "kernels/cpu/rope_rows.h"

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

/// What M adjacent queries add up.
struct ValueJob {
  const TaskView* view;
  ValueSums target;  ///< of the first query
};

/// Columns [column, column + 16 Count) over the slots [begin, end), each at its own position.
template <typename Tiles, int M, int Count>
CONVOKE_SIMD_INLINE void add_slots_together(const ValueJob& job, int begin, int end, int column) {
  Floats sums[M][Count];
  using Element = typename Tiles::Element;
  const int width = job.view->geometry.width;
#pragma GCC unroll 8
  for (int m = 0; m < M; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < Count; ++n) {
      sums[m][n] = load(job.target.sums + m * kMaxWidth + column + n * kLanes);
    }
  }
  const auto add = [&](Floats value, const float* weight, int n) __attribute__((always_inline)) {
#pragma GCC unroll 8
    for (int m = 0; m < M; ++m) {
      sums[m][n] = fma(broadcast(weight[m * kChunk]), value, sums[m][n]);
    }
  };
  for (int position = begin; position < end;) {
    const auto* const tile = job.view->template values_of_block<Element>(position / kKvBlockSize);
    const int place = position % kKvBlockSize;
    const int stop = min_of(kKvBlockSize, place + end - position);
    const float* const weights = job.target.weights + (position - job.target.base);
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
      store(job.target.sums + m * kMaxWidth + column + n * kLanes, sums[m][n]);
    }
  }
}

template <typename Tiles, int M, int Count = max_of(1, min_of(4, kAccumulators / M))>
void add_slots(const ValueJob& job, int begin, int end, int column) {
  const int width = job.view->geometry.width;
  for (; column + Count * kLanes <= width; column += Count * kLanes) {
    add_slots_together<Tiles, M, Count>(job, begin, end, column);
  }
  if constexpr (Count > 1) add_slots<Tiles, M, Count / 2>(job, begin, end, column);
}

/// The values of path slots: slots[i] is at position begin + i.
template <typename Tiles>
void add_path(const ValueJob& job, int queries, int begin, int end, const int32_t* slots) {
  using Element = typename Tiles::Element;
  const int width = job.view->geometry.width;
  for (int position = begin; position < end; ++position) {
    const int slot = slots[position - begin];
    const auto* const tile = job.view->template values_of_block<Element>(slot / kKvBlockSize);
    const int place = slot % kKvBlockSize;
    const float* const weights = job.target.weights + (position - job.target.base);
    for (int column = 0; column < width; column += kLanes) {
      const Floats value = place % 2 == 0 ? Tiles::first_values(tile, width, place / 2, column)
                                          : Tiles::second_values(tile, width, place / 2, column);
      for (int m = 0; m < queries; ++m) {
        float* const sum = job.target.sums + m * kMaxWidth + column;
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
  void (*add)(const ValueJob& job, int begin, int end, int column);
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

template <typename Tiles>
class VectorProducts {
 public:
  using Element = typename Tiles::Element;
  static constexpr int kMaxQueries = CONVOKE_SIMD_NAMESPACE::kMaxQueries;

  explicit VectorProducts(const TaskView& view)
      : view_(view), functions_(by_queries<Tiles>(view.queries)) {}

  void set_query(int m, const float* query) {
    for (int j = 0; j < view_.geometry.head_dim; ++j) {
      query_elements_[j * view_.queries + m] = query[j];
    }
  }

  void score(const Element* const* tiles, float* const* outs, int count, int stride) const {
    functions_.score(query_elements_, view_.geometry.head_dim, tiles, outs, count, stride);
  }

  /// Positions that all rows have committed are shared; what a row sees before and after them is
  /// added for the row alone.
  void add(const ValueSums& target, FetchAhead&) const {
    const int base = target.base;
    int shared_begin = base, shared_end = base + kChunk;
    for (int i = 0; i < view_.rows; ++i) {
      const Visible chunk = view_.within(i, base);
      shared_begin = max_of(shared_begin, chunk.begin);
      shared_end = min_of(shared_end, chunk.begin < chunk.context ? chunk.context : base);
    }
    shared_end = max_of(shared_begin, shared_end);
    add_rows(target, shared_begin, shared_end, true);
    if (shared_begin < shared_end) functions_.add({&view_, target}, shared_begin, shared_end, 0);
    add_rows(target, shared_begin, shared_end, false);
  }

 private:
  void add_rows(const ValueSums& target, int shared_begin, int shared_end, bool before) const {
    const int base = target.base;
    for (int i = 0; i < view_.rows; ++i) {
      const Visible chunk = view_.within(i, base);
      const int m = i * view_.heads;
      const ValueJob job = {&view_,
                            {base, target.weights + m * kChunk, target.sums + m * kMaxWidth}};
      const int begin = before ? chunk.begin : max_of(chunk.begin, shared_end);
      const int end = before ? min_of(chunk.context, shared_begin) : chunk.context;
      if (begin < end) by_queries<Tiles>(view_.heads).add(job, begin, end, 0);
      if (!before && chunk.context < chunk.end) {
        add_path<Tiles>(job, view_.heads, chunk.context, chunk.end,
                        view_.path_from(i, chunk.context));
      }
    }
  }

  const TaskView& view_;
  const ByQueries<Tiles>& functions_;
  alignas(64) float query_elements_[kMaxQueries * kMaxHeadDim];
};

void attend(const AttentionArgs& args, const AttentionTask& task, FetchAhead& ahead) {
  if (args.kv.shape.dtype == DType::kBFloat16) {
    Attender<VectorProducts<Bf16Tiles>>(args, task, ahead).run();
  } else {
    Attender<VectorProducts<FloatTiles>>(args, task, ahead).run();
  }
}

constexpr AttentionKernels kKernels = {kMaxQueries, attend, rope_append_row};

}  // namespace

const AttentionKernels* attention_kernels() {
  return &kKernels;
}

}  // namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE
