// What lies in the memory by which the ranks of a host exchange contributions (one_shot.cu).
#pragma once

#include "kernels/cuda/device.cuh"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {

/// At the begin of each rank's region; zeros at first. Behind it: float contributions[2][ranks]
/// [capacity], by the sum's number modulo 2 and by the rank that wrote them.
struct ExchangeHeader {
  /// arrived[r][b]: the number of the last sum for which block b of rank r has written what it
  /// contributes here. Written by rank r. 64 bits: 32 would come round within a week.
  uint64_t arrived[kMostExchangeRanks][kMostExchangeBlocks];
  // The rank's own.
  uint64_t sums;                            ///< that have ended
  uint32_t blocks_done;                     ///< of the sum at work
  uint32_t row_parts[kMostExchangeBlocks];  ///< of a row at work that have been added
};

inline constexpr size_t kExchangeHeaderBytes = (sizeof(ExchangeHeader) + 255) / 256 * 256;

}  // namespace convoke::cuda
