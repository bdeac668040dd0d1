// Where the ranks of a replica compute, as they tell each other to agree on how they add up.
#pragma once

#include <string>
#include <vector>

#include "parallel/communicator.h"

namespace convoke {

struct RankPlace {
  std::string host, device;  ///< which of the host's devices, by its address on the bus
  long process = 0;
  bool able = true;  ///< what is asked for is there
};

/// That of a rank of this process whose CUDA device has this number.
RankPlace place_of(int device);

/// Everyone's text, in the order of ranks. Collective over the ranks of `host`, outside of
/// programs.
std::vector<std::string> exchange_texts(Communicator& host, const std::string& mine);
/// Everyone's place, likewise.
std::vector<RankPlace> exchange_places(Communicator& host, const RankPlace& mine);

}  // namespace convoke
