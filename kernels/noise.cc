#include "kernels/noise.h"

namespace convoke {

using noise_core::ScalarLanes;

std::array<uint32_t, 4> philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key) {
  noise_core::philox<ScalarLanes>(counter[0], counter[1], counter[2], counter[3], key[0], key[1]);
  return counter;
}

float noise_log(float x) {
  return noise_core::log<ScalarLanes>(x);
}

float gumbel_from_bits(uint32_t bits) {
  return noise_core::gumbel_from_bits<ScalarLanes>(bits);
}

float gumbel(uint64_t seed, int64_t position, int32_t token) {
  const uint64_t place = uint64_t(position);
  const auto words = philox4x32(
      {uint32_t(token) / 4, uint32_t(place), uint32_t(place >> 32), noise_core::kNoiseCounterWord},
      {uint32_t(seed), uint32_t(seed >> 32)});
  return gumbel_from_bits(words[uint32_t(token) % 4]);
}

uint64_t digest_mix(int32_t token, float logit) {
  const uint64_t factor = noise_core::digest_factor<ScalarLanes>(uint32_t(token));
  return factor * ScalarLanes::bits(logit) + factor;
}

}  // namespace convoke
