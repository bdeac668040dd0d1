// The course of one attention task, free of how products are computed: scores chunk by chunk in
// order of position, the online softmax, and the sums of values. Included by the files that
// instantiate it with the products of one instruction set.
#pragma once

#include "kernels/cpu/attention.h"
#include "kernels/cpu/attention_kernels.h"
#include "kernels/cpu/kv_tiles.h"
#include "kernels/cpu/simd16.h"

namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE {
namespace {

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

constexpr int kMostQueries = 16;  ///< of any products

/// Positions that a row sees: [begin, context) at slots of the same number, then [context, end) at
/// path slots.
struct Visible {
  int begin, context, end;
};

/// What a task reads. Query (row, head) has index row * heads + head.
struct TaskView {
  TaskView(const AttentionArgs& attention_args, const AttentionTask& attention_task)
      : args(attention_args),
        task(attention_task),
        geometry(kv_geometry(args.kv.shape)),
        block_table(args.batch->block_tables[size_t(args.batch->sequence[size_t(task.row_begin)])]),
        rows(task.row_end - task.row_begin),
        heads(task.head_end - task.head_begin),
        queries(rows * heads) {
    const AttentionBatch& batch = *args.batch;
    for (int i = 0; i < rows; ++i) {
      const size_t r = size_t(task.row_begin + i);
      Visible& row = visible[i];
      row.context = batch.context[r];
      row.end = row.context + batch.path_begin[r + 1] - batch.path_begin[r];
      row.begin = args.window > 0 ? max_of(0, batch.position[r] - args.window + 1) : 0;
      CONVOKE_CHECK_LT(row.begin, row.end);
      paths[i] = batch.path_slots.data() + batch.path_begin[r];
    }
  }

  /// The row's visible positions in the chunk at `base`; none if begin >= end.
  Visible within(int i, int base) const {
    const Visible& row = visible[i];
    const int begin = max_of(row.begin, base), end = min_of(row.end, base + kChunk);
    const int context = max_of(begin, min_of(row.context, end));
    return {begin, context, end};
  }

  /// The path slots of a row from a position on.
  const int32_t* path_from(int i, int position) const {
    return paths[i] + (position - visible[i].context);
  }

  template <typename Element>
  const Element* keys_of_block(int block) const {
    return key_tile<const Element>(args.kv, geometry, block_table[block], task.kv_head);
  }
  template <typename Element>
  const Element* values_of_block(int block) const {
    return keys_of_block<Element>(block) + geometry.key_elements;
  }

  const AttentionArgs& args;
  const AttentionTask task;
  const KvGeometry geometry;
  const int32_t* const block_table;
  const int rows, heads, queries;
  Visible visible[kMostQueries];
  const int32_t* paths[kMostQueries];  ///< slot of position `context` and on
};

/// Where a chunk's values are added up: sums[m][column] += weights[m][position - base] *
/// value[position][column]. Rows of weights are kChunk apart, rows of sums kMaxWidth.
struct ValueSums {
  int base;
  const float* weights;
  float* sums;
};

/// Products has
///   Element                      of the cache
///   kMaxQueries                  at most kMostQueries
///   Products(const TaskView&)
///   set_query(m, const float*)   before all else, for every query
///   score(tiles, outs, count, stride)   key tile n against all queries, to outs[n][m * stride]
///   add(const ValueSums&, FetchAhead&)   a chunk's values, each row's in order of position
template <typename Products>
class Attender {
 public:
  using Element = typename Products::Element;

  Attender(const AttentionArgs& args, const AttentionTask& task, FetchAhead& ahead)
      : view_(args, task), products_(view_), ahead_(ahead) {}

  void run() {
    load_queries();
    int begin = INT32_MAX, end = 0;
    for (int i = 0; i < view_.rows; ++i) {
      begin = min_of(begin, view_.visible[i].begin);
      end = max_of(end, view_.visible[i].end);
    }
    for (int base = begin / kChunk * kChunk; base < end; base += kChunk) {
      score_committed(base);
      score_paths(base);
      for (int i = 0; i < view_.rows; ++i) {
        const Visible chunk = view_.within(i, base);
        if (chunk.begin >= chunk.end) continue;
        for (int m = i * view_.heads; m < (i + 1) * view_.heads; ++m) {
          soften(m, chunk.begin - base, chunk.end - base);
          fetch_lines(ahead_, kLinesPerStep);
        }
      }
      products_.add({base, scores_, sums_}, ahead_);
    }
    finish();
  }

 private:
  void load_queries() {
    for (int m = 0; m < view_.queries; ++m) {
      products_.set_query(
          m, view_.args.qkv.template row<float>(view_.task.row_begin + m / view_.heads) +
                 size_t(view_.task.head_begin + m % view_.heads) * size_t(view_.geometry.head_dim));
      top_[m] = -__builtin_inff();
      total_[m] = 0;
      for (int j = 0; j < view_.geometry.width; ++j) sums_[m * kMaxWidth + j] = 0;
    }
  }

  /// Every block of the chunk in which some row sees a committed position, against all queries.
  void score_committed(int base) {
    const Element* tiles[kChunkBlocks];
    float* outs[kChunkBlocks];
    int count = 0;
    for (int begin = base; begin < base + kChunk; begin += kKvBlockSize) {
      bool seen = false;
      for (int i = 0; i < view_.rows; ++i) {
        const Visible chunk = view_.within(i, base);
        seen |= chunk.begin < begin + kKvBlockSize && begin < chunk.context &&
                chunk.begin < chunk.context;
      }
      if (!seen) continue;
      tiles[count] = view_.template keys_of_block<Element>(begin / kKvBlockSize);
      outs[count++] = scores_ + (begin - base);
    }
    products_.score(tiles, outs, count, kChunk);
  }

  /// Calls visit(row index, position, slot) for the path positions of the chunk.
  template <typename Visit>
  CONVOKE_SIMD_INLINE void for_each_path_slot(int base, Visit visit) const {
    for (int i = 0; i < view_.rows; ++i) {
      const Visible chunk = view_.within(i, base);
      for (int p = chunk.context; p < chunk.end; ++p) visit(i, p, *view_.path_from(i, p));
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
        tiles[count] = view_.template keys_of_block<Element>(first + block);
        outs[count++] = path_scores_ + block * kKvBlockSize;
      }
      constexpr int kStride = kPathBlocks * kKvBlockSize;
      products_.score(tiles, outs, count, kStride);
      for_each_path_slot(base, [&](int i, int position, int slot) {
        const int offset = slot - first * kKvBlockSize;
        if (offset < 0 || offset >= kStride) return;
        for (int m = i * view_.heads; m < (i + 1) * view_.heads; ++m) {
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
    const Floats scale = broadcast(view_.args.scale), nothing = broadcast(-__builtin_inff());
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
    for (int j = 0; j < view_.geometry.width; j += kLanes) store(sums + j, load(sums + j) * shrink);
  }

  void finish() const {
    for (int m = 0; m < view_.queries; ++m) {
      const int64_t row = view_.task.row_begin + m / view_.heads;
      const int64_t column =
          int64_t(view_.task.head_begin + m % view_.heads) * view_.geometry.head_dim;
      const Floats total = broadcast(total_[m]);
      for (int j = 0; j < view_.geometry.head_dim; j += kLanes) {
        const int lanes = min_of(kLanes, view_.geometry.head_dim - j);
        const Floats value = load(sums_ + m * kMaxWidth + j) / total;
        if (view_.args.y.dtype == DType::kBFloat16) {
          store_bf16_some(view_.args.y.template row<uint16_t>(row) + column + j, value, lanes);
        } else {
          store_some(view_.args.y.template row<float>(row) + column + j, value, lanes);
        }
      }
    }
  }

  const TaskView view_;
  Products products_;
  FetchAhead& ahead_;
  float top_[Products::kMaxQueries];    ///< largest score so far
  float total_[Products::kMaxQueries];  ///< sum of the weights so far
  alignas(64) float scores_[Products::kMaxQueries * kChunk];
  alignas(64) float path_scores_[Products::kMaxQueries * kPathBlocks * kKvBlockSize];
  alignas(64) float sums_[Products::kMaxQueries * kMaxWidth];
};

}  // namespace
}  // namespace convoke::cpu::CONVOKE_SIMD_NAMESPACE
