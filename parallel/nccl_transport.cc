#include "parallel/nccl_transport.h"

#include <chrono>
#include <cstdlib>
#include <cstring>
#include <future>
#include <mutex>
#include <thread>
#include <vector>

#include "kernels/check.h"
#include "kernels/cuda/device_runtime.h"
#include "kernels/shared_library.h"
#include "parallel/rank_place.h"

#if defined(CONVOKE_HAVE_NCCL)
#include <nccl.h>
#endif

namespace convoke {

TransportChoice choose_transport(const std::vector<RankPlace>& places) {
  TransportChoice choice;
  choice.shares_device.assign(places.size(), false);
  for (size_t r = 0; r < places.size(); ++r) {
    if (!places[r].able && choice.why_not.empty()) {
      choice.why_not = fmt::format("shard {} on host {} has no NCCL", r, places[r].host);
    }
    for (size_t other = 0; other < places.size(); ++other) {
      const RankPlace &a = places[r], &b = places[other];
      if (other == r || a.host != b.host || a.device != b.device) continue;
      choice.shares_device[r] = true;
      if (a.process == b.process && choice.why_not.empty()) {
        choice.why_not = fmt::format("shards {} and {} are threads that share GPU {} of host {}", r,
                                     other, a.device, a.host);
      }
    }
  }
  return choice;
}

#if !defined(CONVOKE_HAVE_NCCL)

std::unique_ptr<DeviceTransport> make_nccl_transport(Communicator&, int, std::string& why) {
  why = "this program was built without NCCL (nccl.h was not found)";
  return nullptr;
}

#else

namespace {

constexpr std::chrono::seconds kStartLimit(60);

/// The library's functions that are used.
struct Api {
  explicit Api(const SharedLibrary& library) {
    library.bind(version, "ncclGetVersion");
    library.bind(unique_id, "ncclGetUniqueId");
    library.bind(init, "ncclCommInitRank");
    library.bind(abort, "ncclCommAbort");
    library.bind(async_error, "ncclCommGetAsyncError");
    library.bind(describe, "ncclGetErrorString");
    library.bind(all_gather, "ncclAllGather");
    library.bind(send, "ncclSend");
    library.bind(receive, "ncclRecv");
    library.bind(group_start, "ncclGroupStart");
    library.bind(group_end, "ncclGroupEnd");
  }
  void check(ncclResult_t result, const char* call) const {
    if (result == ncclSuccess) return;
    throw_error(ErrorKind::kResource,
                "NCCL: {}: {}; NCCL_DEBUG=INFO says more, --gpu-collectives host does without it",
                call, describe(result));
  }

  decltype(&ncclGetVersion) version;
  decltype(&ncclGetUniqueId) unique_id;
  decltype(&ncclCommInitRank) init;
  decltype(&ncclCommAbort) abort;
  decltype(&ncclCommGetAsyncError) async_error;
  decltype(&ncclGetErrorString) describe;
  decltype(&ncclAllGather) all_gather;
  decltype(&ncclSend) send;
  decltype(&ncclRecv) receive;
  decltype(&ncclGroupStart) group_start;
  decltype(&ncclGroupEnd) group_end;
};

const Api& api() {
  static const Api api(SharedLibrary(
      {fmt::format("libnccl.so.{}", NCCL_MAJOR), "libnccl.so"}, CONVOKE_CUDA_LIBRARIES,
      "install NCCL, add its folder to LD_LIBRARY_PATH, or take --gpu-collectives host"));
  return api;
}

class NcclTransport final : public DeviceTransport {
 public:
  NcclTransport(ncclComm_t comm, int rank, int size) : rank_(rank), size_(size), comm_(comm) {}
  ~NcclTransport() override {
    abort();  // peers may be gone: ending in good order would wait for them
  }

  std::string describe() const override {
    int version = 0;
    api().check(api().version(&version), "ncclGetVersion");
    return fmt::format("nccl {}.{}.{}", version / 10000, version / 100 % 100, version % 100);
  }
  void all_gather(CUstream_st* stream, const float* mine, float* all, int64_t count) override {
    const std::lock_guard lock(mutex_);
    api().check(api().all_gather(mine, all, size_t(count), ncclFloat32, usable(), stream),
                "ncclAllGather");
  }
  void all_to_all(CUstream_st* stream, const float* from, float* to, int64_t count) override {
    const std::lock_guard lock(mutex_);
    const ncclComm_t comm = usable();
    api().check(api().group_start(), "ncclGroupStart");
    ncclResult_t result = ncclSuccess;
    for (int r = 0; r < size_ && result == ncclSuccess; ++r) {
      result = api().send(from + r * count, size_t(count), ncclFloat32, r, comm, stream);
      if (result != ncclSuccess) break;
      result = api().receive(to + r * count, size_t(count), ncclFloat32, r, comm, stream);
    }
    const ncclResult_t ended = api().group_end();
    api().check(result, "ncclSend and ncclRecv");
    api().check(ended, "ncclGroupEnd");
  }

  std::optional<std::string> failure() override {
    const std::lock_guard lock(mutex_);
    if (comm_ == nullptr) return "NCCL was aborted";
    ncclResult_t state = ncclSuccess;
    const ncclResult_t asked = api().async_error(comm_, &state);
    if (asked != ncclSuccess) state = asked;
    if (state == ncclSuccess || state == ncclInProgress) return std::nullopt;
    return fmt::format("NCCL on rank {}: {}", rank_, api().describe(state));
  }
  void abort() noexcept override {
    ncclComm_t comm = nullptr;
    {
      const std::lock_guard lock(mutex_);
      std::swap(comm, comm_);
    }
    // Not under the lock: it may wait for graphs to be destroyed by another thread.
    if (comm != nullptr) api().abort(comm);
  }

 private:
  ncclComm_t usable() const {
    if (comm_ == nullptr) throw_error(ErrorKind::kPeer, "NCCL was aborted on rank {}", rank_);
    return comm_;
  }

  const int rank_, size_;
  std::mutex mutex_;
  ncclComm_t comm_;
};

bool library_is_there(std::string& why) {
  try {
    api();
    return true;
  } catch (const Error& error) {
    why = error.what();
    return false;
  }
}

ncclUniqueId share_id(Communicator& host) {
  ncclUniqueId id = {};
  if (host.rank() == 0) api().check(api().unique_id(&id), "ncclGetUniqueId");
  std::vector<std::byte> message(sizeof id);
  std::memcpy(message.data(), &id, sizeof id);
  host.broadcast(message, 0);
  CONVOKE_CHECK_EQ(message.size(), sizeof id);
  std::memcpy(&id, message.data(), sizeof id);
  return id;
}

/// Waits for all ranks, but not for ever: NCCL's own call cannot be left, so that of a rank whose
/// peers do not come stays behind with its thread until the job ends.
ncclComm_t connect(int rank, int size, const ncclUniqueId& id, int device) {
  auto result = std::make_shared<std::promise<std::pair<ncclResult_t, ncclComm_t> > >();
  auto outcome = result->get_future();
  std::thread([=] {
    ncclComm_t comm = nullptr;
    cuda::select_device(device);
    const ncclResult_t code = api().init(&comm, size, id, rank);
    result->set_value({code, comm});
  }).detach();
  if (outcome.wait_for(kStartLimit) != std::future_status::ready) {
    throw_error(ErrorKind::kTimeout,
                "NCCL did not come up on all {} ranks within {} s (this is rank {}): "
                "NCCL_DEBUG=INFO and NCCL_SOCKET_IFNAME may help, --gpu-collectives host does "
                "without it",
                size, kStartLimit.count(), rank);
  }
  const auto [code, comm] = outcome.get();
  api().check(code, "ncclCommInitRank");
  return comm;
}

}  // namespace

std::unique_ptr<DeviceTransport> make_nccl_transport(Communicator& host, int device,
                                                     std::string& why) {
  RankPlace mine = place_of(device);
  std::string missing;
  mine.able = library_is_there(missing);
  const TransportChoice choice = choose_transport(exchange_places(host, mine));
  if (!choice.why_not.empty()) {
    why = choice.why_not + (missing.empty() ? "" : ": " + missing);
    return nullptr;
  }
  const int rank = host.rank();
  if (choice.shares_device[size_t(rank)]) {
    // NCCL refuses a device that it sees twice on one host. Read once, when the first communicator
    // of the process is made.
    setenv("NCCL_HOSTID", fmt::format("{}-{}", mine.host, rank).c_str(), 0);
  }
  const ncclUniqueId id = share_id(host);
  return std::make_unique<NcclTransport>(connect(rank, host.size(), id, device), rank, host.size());
}

#endif

}  // namespace convoke
