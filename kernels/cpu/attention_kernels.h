// What attention.cc asks of each instruction set.
#pragma once

#include "kernels/backend.h"
#include "kernels/cpu/fetch_ahead.h"

namespace convoke::cpu {

/// Some rows of one sequence and some query heads that share a key/value head: the work that shares
/// loads of keys and values.
struct AttentionTask {
  int row_begin = 0, row_end = 0;
  int kv_head = 0;
  int head_begin = 0, head_end = 0;
};

/// Lines that are fetched ahead at each step, some tenths of a microsecond of work.
inline constexpr int kLinesPerStep = 32;

struct AttentionKernels {
  int max_queries = 0;  ///< (rows * heads) of a task is at most this
  /// Computes the task's part of args.y, and has some of what comes next fetched meanwhile.
  void (*attend)(const AttentionArgs& args, const AttentionTask& task, FetchAhead& ahead);
  /// One row and one key/value head of rope_append: its query heads in place, key and value to the
  /// cache.
  void (*rope_append)(const RopeAppendArgs& args, int row, int kv_head);
};

/// Null where the compiler's target has no such instruction set.
namespace portable {
const AttentionKernels* attention_kernels();
}
namespace avx2 {
const AttentionKernels* attention_kernels();
}
namespace avx512 {
const AttentionKernels* attention_kernels();
}

/// Only attend; for bfloat16 caches with head_dim a multiple of 32.
namespace amx {
const AttentionKernels* attention_kernels();
}

}  // namespace convoke::cpu
