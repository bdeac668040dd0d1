#include "parallel/communicator.h"

#include "kernels/check.h"
#include "parallel/block_communicator.h"

namespace convoke {

void Communicator::all_gather_floats(Stream& stream, const float* mine, float* all, int64_t count) {
  all_gather(stream, std::as_bytes(std::span(mine, size_t(count))),
             std::as_writable_bytes(std::span(all, size_t(count * size()))));
}

void Communicator::all_reduce_add_norm(Stream&, const ResidualSum&) {
  CONVOKE_CHECK(fuses_norm());
}

std::vector<std::unique_ptr<Communicator>> make_thread_communicators(
    int size, const CommunicatorOptions& options) {
  CONVOKE_CHECK(size == 1 || size == 2 || size == 4 || size == 8);
  std::vector<std::string> names;
  for (int r = 0; r < size; ++r) names.push_back(fmt::format("rank {}", r));
  std::vector<std::unique_ptr<Communicator>> all;
  std::shared_ptr<void> memory;
  for (int r = 0; r < size; ++r) {
    BlockSetup setup;
    setup.rank = r;
    setup.size = size;
    setup.block_size = size;
    setup.names = names;
    setup.description = size == 1 ? "single" : "threads";
    setup.options = options;
    if (!memory) memory = allocate_region(setup.region_shape());
    setup.memory = memory;
    setup.region = memory.get();
    all.push_back(std::make_unique<BlockCommunicator>(std::move(setup)));
  }
  return all;
}

std::unique_ptr<Communicator> make_single_communicator(const CommunicatorOptions& options) {
  return std::move(make_thread_communicators(1, options).front());
}

}  // namespace convoke
