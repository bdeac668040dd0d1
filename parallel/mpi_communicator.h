// The communicator between the MPI ranks of one replica: a block communicator whose regions are
// MPI-3 shared windows and whose link is MPI point-to-point.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/mpi_link.h"

namespace convoke {

/// The largest division into aligned blocks of equal power-of-two size whose members share memory
/// with each other, everywhere. `memory[r]` names the memory that rank r sees (equal = shared).
int block_size_for(const std::vector<int>& memory, int largest);

/// What a job must keep until MPI ends: freeing these is collective, so it is not left to
/// destructors, which may run after peers have died.
struct MpiHoldings {
  std::vector<MPI_Win> windows;
  std::vector<MPI_Comm> comms;
};

struct MpiGroup {
  std::vector<int> memory;         ///< [size] see block_size_for
  std::vector<std::string> names;  ///< [size] for messages
  bool crowded = false;            ///< more ranks than cores on this host
};

/// Collective over the group's ranks; `comm` has them in the group's order. Blocking MPI calls are
/// made under `gate`; the caller bounds them.
std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm comm, MpiGate& gate,
                                                    const MpiGroup& group,
                                                    const CommunicatorOptions& options,
                                                    MpiHoldings& holdings);

}  // namespace convoke
