#include "parallel/peer_memory.h"

#include <atomic>
#include <cstring>
#include <mutex>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/device_buffer.h"

namespace convoke {
namespace {

using MappedBuffer = cuda::OwnedMemory<cuda::allocate_mapped, cuda::free_mapped>;

int selected(int device) {
  cuda::select_device(device);
  return device;
}

void keep_for_ever(cuda::DeviceBuffer memory) {
  static std::mutex mutex;
  static auto* const kept = new std::vector<cuda::DeviceBuffer>;  // never destroyed
  const std::lock_guard lock(mutex);
  kept->push_back(std::move(memory));
}

/// What other ranks need to reach a region.
struct Offer {
  cuda::MemoryHandle handle;  ///< for processes
  std::byte* address;         ///< for threads
};

class RankMemory final : public PeerMemory {
 public:
  RankMemory(Backend& backend, int rank, int ranks, const PeerMemoryOptions& options)
      : device_(selected(cuda::device_of(backend))),
        abort_(sizeof(uint32_t), "the word that ends sums") {
    const int64_t capacity = (options.capacity + 3) / 4 * 4;
    // CUDA IPC shares whole blocks of 2 MiB: nothing else is to lie in them.
    constexpr size_t kBlock = size_t{2} << 20;
    const size_t bytes = (cuda::exchange_bytes(ranks, capacity) + kBlock - 1) / kBlock * kBlock;
    region_ = cuda::DeviceBuffer(bytes, "contributions of other ranks");
    regions_.capacity = capacity;
    regions_.rank = rank, regions_.ranks = ranks;
    regions_.blocks = options.blocks;
    regions_.regions[rank] = static_cast<std::byte*>(region_.data());
    *static_cast<uint32_t*>(abort_.data()) = 0;
    regions_.abort = static_cast<const uint32_t*>(abort_.data());
    backend.run([&](Stream& stream) {
      backend.fill_zero(stream, TensorView::matrix(region_.data(), DType::kFloat32, 1,
                                                   int64_t(bytes / sizeof(float))));
    });
  }
  ~RankMemory() override {
    for (void* const memory : imports_) cuda::release_import(memory);
    if (*static_cast<const uint32_t*>(abort_.data()) == 0) return;
    // A rank that has not heard of the abort may still write there: the memory ends with the job.
    keep_for_ever(std::move(region_));
  }

  const cuda::PeerRegions& regions() const override { return regions_; }
  const char* describe() const override { return imports_.empty() ? "peer access" : "CUDA IPC"; }
  void abort() noexcept override {
    std::atomic_ref(*static_cast<uint32_t*>(abort_.data())).store(1);
  }

  Offer offer(bool to_processes) const {
    Offer offer = {};
    offer.address = regions_.regions[regions_.rank];
    if (to_processes) offer.handle = cuda::export_memory(region_.data());
    return offer;
  }
  /// Throws Error(kResource) when there is no way.
  void reach(int rank, const RankPlace& place, const Offer& offer, bool thread) {
    cuda::select_device(device_);
    const int peer = cuda::device_at(place.device);
    if (peer >= 0 && !cuda::reaches_peer(device_, peer)) {
      throw_error(ErrorKind::kResource, "GPU {} does not reach the memory of GPU {}",
                  cuda::device_info(device_).address, place.device);
    }
    if (thread) {
      cuda::reach_peer(device_, peer);
      regions_.regions[rank] = offer.address;
      return;
    }
    void* const memory = cuda::import_memory(offer.handle);
    imports_.push_back(memory);
    regions_.regions[rank] = static_cast<std::byte*>(memory);
  }

 private:
  const int device_;
  MappedBuffer abort_;
  cuda::DeviceBuffer region_;
  cuda::PeerRegions regions_;
  std::vector<void*> imports_;
};

std::string bytes_of(const Offer& offer) {
  return {reinterpret_cast<const char*>(&offer), sizeof offer};
}

/// Everyone's objections, made one: that of the lowest rank that has any.
std::string first_objection(Communicator& host, const std::string& mine) {
  const std::vector<std::string> all = exchange_texts(host, mine);
  for (size_t r = 0; r < all.size(); ++r) {
    if (!all[r].empty()) return fmt::format("shard {}: {}", r, all[r]);
  }
  return "";
}

}  // namespace

std::string why_no_peers(const std::vector<RankPlace>& places) {
  for (size_t r = 0; r < places.size(); ++r) {
    if (places[r].host != places[0].host) {
      return fmt::format("shards are on the hosts {} and {}", places[0].host, places[r].host);
    }
    for (size_t other = 0; other < r; ++other) {
      if (places[r].process == places[other].process && places[r].device == places[other].device) {
        return fmt::format("shards {} and {} are threads that share GPU {}", other, r,
                           places[r].device);
      }
    }
  }
  return "";
}

std::unique_ptr<PeerMemory> make_peer_memory(Backend& backend, Communicator& host,
                                             const RankPlace& mine,
                                             const PeerMemoryOptions& options, std::string& why) {
  const int rank = host.rank();
  const std::vector<RankPlace> places = exchange_places(host, mine);
  why = why_no_peers(places);
  if (!why.empty()) return nullptr;

  // Nobody leaves before all have said whether it went well.
  std::string objection;
  const auto attempt = [&](auto&& step) {
    if (!objection.empty()) return;
    try {
      step();
    } catch (const Error& error) {
      objection = error.what();
    }
  };
  std::unique_ptr<RankMemory> memory;
  Offer offer = {};
  attempt([&] {
    memory = std::make_unique<RankMemory>(backend, rank, host.size(), options);
    bool processes = false;
    for (const RankPlace& place : places) processes |= place.process != mine.process;
    offer = memory->offer(processes);
  });
  const std::vector<std::string> offers = exchange_texts(host, bytes_of(offer));
  why = first_objection(host, objection);
  if (!why.empty()) return nullptr;
  attempt([&] {
    for (int r = 0; r < host.size(); ++r) {
      if (r == rank) continue;
      CONVOKE_CHECK_EQ(offers[size_t(r)].size(), sizeof offer);
      std::memcpy(&offer, offers[size_t(r)].data(), sizeof offer);
      const RankPlace& place = places[size_t(r)];
      memory->reach(r, place, offer, place.process == mine.process);
    }
  });
  // Also keeps a region from being written to before it is there: all of them are by now.
  why = first_objection(host, objection);
  return why.empty() ? std::move(memory) : nullptr;
}

}  // namespace convoke
