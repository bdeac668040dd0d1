// One row of the pick rule, without threads: the pieces of kernels/cpu/pick.cc.
#pragma once

#include <limits>
#include <span>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/pick_kernels.h"
#include "kernels/pick.h"

namespace convoke::cpu {

inline constexpr float kNoChance = -std::numeric_limits<float>::infinity();
inline constexpr float kLowestScore = std::numeric_limits<float>::lowest();

/// The path's loops. AVX-512 and AMX machines share them: there is no matrix product in a pick.
const PickKernels& pick_kernels(Isa isa);

/// One row of logits over tokens [first_token, first_token + columns), or over `tokens`.
struct LogitRow {
  const float* logits = nullptr;
  int64_t columns = 0;
  int32_t first_token = 0;
  std::span<const LogitEdit> edits;  ///< of the whole vocabulary, sorted
  std::span<const int32_t> tokens;   ///< [columns] ascending, or empty

  int32_t token(int64_t column) const {
    return tokens.empty() ? first_token + int32_t(column) : tokens[size_t(column)];
  }
};

/// Columns of a row in whole blocks, as the kernels want them.
struct BlockRun {
  const float* logits;
  const float* floor;  ///< [kPickBlock], see pick_kernels.h
  int64_t columns;     ///< multiple of kPickBlock; more than the row holds if padded
  int64_t begin;       ///< column of the row
  bool padded;
  const int32_t* tokens;  ///< [columns] when the row names its tokens, else null
};

/// Cuts columns [begin, end) of a row into runs: long ones straight from the logits, single blocks
/// through a copy where tokens are edited or the row ends. `begin` is a multiple of kPickBlock,
/// `end` too unless it is the row's end.
class BlockRuns {
 public:
  BlockRuns(const LogitRow& row, int64_t begin, int64_t end);
  /// The next run in ascending order (valid until the next call), or false at the end.
  bool next(BlockRun& run);

 private:
  int64_t next_edited_column();
  void copy_block();

  const LogitRow& row_;
  int64_t column_;
  int64_t end_;
  std::span<const LogitEdit>::iterator edit_;
  alignas(64) float block_[kPickBlock];
  alignas(64) float floor_[kPickBlock];
  alignas(64) int32_t tokens_[kPickBlock];
};

/// Floors of a whole block: every token may be picked, or none that is not already above -infinity.
const float* open_floor();
const float* closed_floor();

/// The bid of columns [begin, end) for the row, no filters.
Pick pick_columns(const PickKernels& kernels, const LogitRow& row, const PickRow& params,
                  int64_t begin, int64_t end);

/// A row after edits and division by the temperature, -infinity where a token is banned. `main`
/// holds the whole blocks and lives in the caller's scratch; the rest is in `tail`.
struct ScaledRow {
  float* main = nullptr;
  int64_t main_columns = 0;
  int64_t columns = 0;
  float maximum = kNoChance;
  alignas(64) float tail[kPickBlock];

  int64_t tail_columns() const { return columns > main_columns ? kPickBlock : 0; }
  float operator[](int32_t column) const {
    return column < main_columns ? main[column] : tail[column - main_columns];
  }
};

/// What top-k, top-p and min-p leave of a row whose maximum is above -infinity. `tokens` has room
/// for every column.
PickCut find_cut(const PickKernels& kernels, const ScaledRow& row, const PickRow& params,
                 int32_t* tokens);

/// The pick of a whole row with filters. `scratch` holds 2 * columns floats.
Pick pick_filtered(const PickKernels& kernels, const LogitRow& row, const PickRow& params,
                   float* scratch);

/// Fills `out`: the pick's log-probability, then those of the `most_likely` most likely tokens,
/// then entries with token -1. `scratch` holds columns floats.
void row_logprobs(const PickKernels& kernels, const LogitRow& row, int32_t pick,
                  int32_t most_likely, float* scratch, std::span<TokenLogprob> out);

}  // namespace convoke::cpu
