// The pick rule on the CPU (kernels/pick.h has the rule and the arguments).
//
// Called by every thread of a team with equal arguments; the work is shared by row and, for rows
// without filters, by ranges of the vocabulary. Ends with a team barrier. Nothing is allocated.
// Tokens, scores and digests are the same bits on every path, for every number of threads and every
// way the vocabulary is sliced; pick_full without filters gives what pick_slice gives.
#pragma once

#include "kernels/cpu/cpu_backend.h"
#include "kernels/pick.h"

namespace convoke::cpu {

void pick_slice(CpuStream& stream, Isa isa, const PickSliceArgs& args);

/// At most 2^19 tokens of vocabulary where a row filters or asks for log-probabilities.
void pick_full(CpuStream& stream, Isa isa, const PickFullArgs& args);

/// The first token of a row is what pick_slice takes, unless every token is banned.
void rank(CpuStream& stream, Isa isa, const RankArgs& args);

}  // namespace convoke::cpu
