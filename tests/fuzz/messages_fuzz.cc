// Whatever arrives at a mailbox: decoding must not crash, and what is accepted must survive a
// round trip.
#include <cstdint>
#include <cstdlib>

#include "actors/codec.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span bytes(reinterpret_cast<const std::byte*>(data), size);
  const auto message = convoke::decode(bytes);
  if (!message) return 0;
  const auto again = convoke::encode(*message);
  const auto back = convoke::decode(again);
  if (!back || convoke::encode(*back) != again) std::abort();
  return 0;
}
