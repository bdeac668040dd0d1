// Rotary embedding, the paged key/value cache and attention on the CPU. See kernels/backend.h for
// what each computes. Every thread of the team calls them with equal arguments; they split the work
// and end with stream.barrier(). Scratch is on the stack; nothing is allocated.
//
// How a row's bits are kept free of its neighbours: a score is one chain of fused multiply-adds
// over the head's elements, so it depends on the query and the key alone. Scores are put in order
// of absolute position; the softmax runs online over chunks that are aligned to absolute position;
// each element of the output is one chain over the positions in order. Where a key lies (committed
// slot or path slot, which block), and which rows share its loads, never enters the arithmetic.
#pragma once

#include "kernels/cpu/cpu_backend.h"

namespace convoke::cpu {

inline constexpr int kMaxHeadDim = 512;  ///< larger heads are refused (a check)

/// Bytes of one block of one layer: for each key/value head a key tile, then a value tile
/// (attention_tiles.h).
size_t kv_block_bytes(const KvShape& shape);

void rope_append(CpuStream& stream, Isa isa, const RopeAppendArgs& args);

/// Each row must see at least one position.
void attention(CpuStream& stream, Isa isa, const AttentionArgs& args);

/// rope_append and attention in one. Where every thread can have as many key/value heads of its own
/// there is no barrier between them.
void rope_attention(CpuStream& stream, Isa isa, const RopeAppendArgs& rope,
                    const AttentionArgs& args);

void move_kv(CpuStream& stream, Isa isa, std::span<const KvLayer> layers,
             std::span<const KvMove> moves);

}  // namespace convoke::cpu
