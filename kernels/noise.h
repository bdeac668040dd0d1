// The noise of the pick rule, defined once for every backend, drafter and test.
//
//   gumbel(seed, position, token) = -log(-log(u)),  u in (0, 1)
//
// u comes from Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC'11)
// with key = {seed low, seed high} and counter = {token / 4, position low, position high,
// 0x436f6e76}; word token % 4 is used. Keyed by token id, never by rank or slice, so every shard
// and the drafter see the same noise. The logarithm is one polynomial with explicit fused
// multiply-adds, evaluated in the same order by the scalar code here and by every vector kernel:
// the bits agree everywhere.
#pragma once

#include <array>
#include <cstdint>

namespace convoke {

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

/// Natural logarithm of a positive normal float; the polynomial above.
float noise_log(float x);

/// Maps 32 random bits to a Gumbel variate. Finite for every input; the upper (winning) tail keeps
/// the full resolution of the 32 bits.
float gumbel_from_bits(uint32_t bits);

float gumbel(uint64_t seed, int64_t position, int32_t token);

/// The mixing function of Pick::digest.
uint64_t digest_mix(int32_t token, float logit);

}  // namespace convoke
