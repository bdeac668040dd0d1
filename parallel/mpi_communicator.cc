#include "parallel/mpi_communicator.h"

#include <algorithm>

#include "parallel/block_communicator.h"

namespace convoke {
namespace {

// Memory that all ranks of `block` map; initialised when this returns.
void* shared_window(MPI_Comm block, const RegionShape& shape, MpiHoldings& holdings) {
  int rank = 0;
  check_mpi(MPI_Comm_rank(block, &rank), "MPI_Comm_rank");
  const size_t room = SharedRegion::bytes(shape) + SharedRegion::kAlignment;
  void* base = nullptr;
  MPI_Win window = MPI_WIN_NULL;
  // The first rank gives all of it: a region is one piece.
  const int code = MPI_Win_allocate_shared(rank == 0 ? MPI_Aint(room) : 0, 1, MPI_INFO_NULL, block,
                                           &base, &window);
  if (code != MPI_SUCCESS) {
    throw_error(ErrorKind::kResource,
                "cannot get {} MiB of shared memory for collectives (MPI_Win_allocate_shared): is "
                "/dev/shm large enough?",
                room >> 20);
  }
  holdings.windows.push_back(window);
  MPI_Aint bytes = 0;
  int unit = 0;
  check_mpi(MPI_Win_shared_query(window, 0, &bytes, &unit, &base), "MPI_Win_shared_query");
  // Mappings differ in their addresses by whole pages, so every rank finds the same place.
  const auto address = reinterpret_cast<uintptr_t>(base);
  constexpr uintptr_t kMask = SharedRegion::kAlignment - 1;
  void* region = reinterpret_cast<void*>((address + kMask) & ~kMask);
  if (rank == 0) SharedRegion::initialise(region, shape);
  check_mpi(MPI_Barrier(block), "MPI_Barrier");
  return region;
}

std::string description(int size, int block_size) {
  if (block_size == size) return "shared memory";
  if (block_size == 1) return "mpi";
  return fmt::format("shared memory in blocks of {}, mpi between", block_size);
}

}  // namespace

int block_size_for(const std::vector<int>& memory, int largest) {
  const size_t size = memory.size();
  for (size_t block = size; block > 1; block /= 2) {
    if (block > size_t(largest)) continue;
    bool fits = size % block == 0;
    for (size_t r = 0; fits && r < size; ++r) fits = memory[r] == memory[r / block * block];
    if (fits) return int(block);
  }
  return 1;
}

std::unique_ptr<Communicator> make_mpi_communicator(MPI_Comm comm, MpiGate& gate,
                                                    const MpiGroup& group,
                                                    const CommunicatorOptions& options,
                                                    MpiHoldings& holdings) {
  BlockSetup setup;
  setup.size = int(group.names.size());
  setup.block_size = block_size_for(group.memory, options.largest_block);
  setup.names = group.names;
  setup.description = description(setup.size, setup.block_size);
  setup.options = options;
  const RegionShape shape = setup.region_shape();
  {
    const std::lock_guard lock(gate);
    check_mpi(MPI_Comm_set_errhandler(comm, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
    check_mpi(MPI_Comm_rank(comm, &setup.rank), "MPI_Comm_rank");
    if (setup.block_size > 1) {
      MPI_Comm block = MPI_COMM_NULL;
      check_mpi(MPI_Comm_split(comm, setup.rank / setup.block_size, setup.rank, &block),
                "MPI_Comm_split");
      holdings.comms.push_back(block);
      check_mpi(MPI_Comm_set_errhandler(block, MPI_ERRORS_RETURN), "MPI_Comm_set_errhandler");
      setup.region = shared_window(block, shape, holdings);
    }
  }
  if (setup.block_size == 1) {
    setup.memory = allocate_region(shape);
    setup.region = setup.memory.get();
  }
  if (setup.block_size < setup.size) {
    setup.link = std::make_unique<MpiLink>(comm, gate, group.crowded);
  }
  return std::make_unique<BlockCommunicator>(std::move(setup));
}

}  // namespace convoke
