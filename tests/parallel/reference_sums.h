// What collectives must come to, computed without any: shared by the tests over threads and MPI.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace convoke::test {

/// Values of many magnitudes, so that another order of summation shows in the bits.
inline std::vector<float> contribution(int rank, int64_t count, uint32_t seed) {
  std::mt19937 random(seed * 977 + uint32_t(rank));
  std::uniform_real_distribution<float> mantissa(-1.F, 1.F);
  std::uniform_int_distribution<int> exponent(-12, 12);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& v : values) v = std::ldexp(mantissa(random), exponent(random));
  if (count > 3) {
    values[0] = -0.F;
    values[1] = std::numeric_limits<float>::denorm_min();
    if (rank == 0) values[2] = std::numeric_limits<float>::infinity();
  }
  return values;
}

/// The contract, written as recursion.
inline float reference_tree(const std::vector<std::vector<float>>& ranks, size_t first, size_t n,
                            size_t i) {
  if (n == 1) return ranks[first][i];
  return reference_tree(ranks, first, n / 2, i) + reference_tree(ranks, first + n / 2, n / 2, i);
}

inline std::vector<float> reference(int size, int64_t count, uint32_t seed,
                                    const std::vector<float>& target) {
  std::vector<std::vector<float>> ranks;
  for (int r = 0; r < size; ++r) ranks.push_back(contribution(r, count, seed));
  std::vector<float> result = target;
  for (size_t i = 0; i < size_t(count); ++i) {
    result[i] += reference_tree(ranks, 0, size_t(size), i);
  }
  return result;
}

inline bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  return a.size() == b.size() &&
         (a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0);
}

inline std::vector<std::byte> message_of(size_t bytes, int salt) {
  std::vector<std::byte> message(bytes);
  for (size_t i = 0; i < bytes; ++i)
    message[i] = std::byte(uint8_t(i * 7 + i / 251 + size_t(salt)));
  return message;
}

}  // namespace convoke::test
