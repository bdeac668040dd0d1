#include "parallel/device_communicator.h"

#include <algorithm>
#include <mutex>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/kernels.h"

namespace convoke {
namespace {

constexpr int64_t kUnit = 16;  // pieces are multiples of so many floats: aligned everywhere

class DeviceCommunicator final : public Communicator {
 public:
  DeviceCommunicator(Backend& backend, std::unique_ptr<Communicator> host,
                     std::unique_ptr<DeviceTransport> transport, const CommunicatorOptions& options)
      : backend_(backend),
        host_(std::move(host)),
        transport_(std::move(transport)),
        capacity_(options.reduce_capacity),
        deadline_(options.deadline_seconds / 2) {
    const auto floats = [&](int64_t count) {
      return backend.allocate(size_t(count) * sizeof(float));
    };
    // The last piece of a large sum may reach beyond it.
    const int64_t room = piece_of(capacity_) * size();
    contribution_ = floats(room);
    gathered_ = floats(std::max(room, std::min(capacity_, kSmallSumBytes / 4) * size()));
    piece_ = floats(piece_of(capacity_));
    cuda::set_wait_monitor(backend_, [this](double seconds) { watch(seconds); });
  }
  ~DeviceCommunicator() override {
    cuda::set_wait_monitor(backend_, {});
    cuda::forget_graphs(backend_);  // before the transport that is in them
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string describe() const override {
    return fmt::format("{}, {} beside it", transport_->describe(), host_->describe());
  }

  float* reduce_buffer() override { return static_cast<float*>(contribution_->data()); }
  void all_reduce_add(Stream& stream, float* target, int64_t count) override;

  void all_gather(Stream& stream, std::span<const std::byte> mine,
                  std::span<std::byte> all) override {
    host_->all_gather(stream, mine, all);
  }
  void all_gather_floats(Stream& stream, const float* mine, float* all, int64_t count) override {
    check_whole();  // a graph would not
    cuda::enqueue(cuda::queue_of(stream),
                  [=, transport = transport_.get()](const cuda::CudaStream& to) {
                    transport->all_gather(to.handle, mine, all, count);
                  });
  }
  void broadcast(std::vector<std::byte>& message, int root) override {
    host_->broadcast(message, root);
  }
  void barrier() override { host_->barrier(); }
  void abort(const std::string& reason) override {
    {
      const std::lock_guard lock(mutex_);
      if (broken_.empty()) broken_ = reason;
    }
    host_->abort(reason);
    transport_->abort();
  }

 private:
  int64_t piece_of(int64_t count) const {
    const int64_t piece = (count + size() - 1) / size();
    return (piece + kUnit - 1) / kUnit * kUnit;
  }
  void watch(double seconds);
  void check_whole();
  void give_up(const std::string& reason);

  Backend& backend_;
  std::unique_ptr<Communicator> host_;
  std::unique_ptr<DeviceTransport> transport_;
  const int64_t capacity_;
  const double deadline_;
  std::unique_ptr<Buffer> contribution_;
  std::unique_ptr<Buffer> gathered_;  ///< [ranks][count or piece]
  std::unique_ptr<Buffer> piece_;     ///< this rank's sums of a large sum
  std::mutex mutex_;
  std::string broken_;  ///< why, once it is
};

void DeviceCommunicator::all_reduce_add(Stream& stream, float* target, int64_t count) {
  CONVOKE_CHECK(0 <= count && count <= capacity_);
  check_whole();  // a graph would not
  const cuda::CudaStream& queue = cuda::queue_of(stream);
  DeviceTransport* const transport = transport_.get();
  auto* const mine = static_cast<float*>(contribution_->data());
  auto* const all = static_cast<float*>(gathered_->data());
  if (count * int64_t(sizeof(float)) <= kSmallSumBytes) {
    cuda::enqueue(queue, [=](const cuda::CudaStream& to) {
      transport->all_gather(to.handle, mine, all, count);
    });
    cuda::rank_sum(queue, all, count, size(), target, count, /*add=*/true);
    return;
  }
  const int64_t piece = piece_of(count);
  auto* const sums = static_cast<float*>(piece_->data());
  cuda::enqueue(queue, [=](const cuda::CudaStream& to) {
    transport->all_to_all(to.handle, mine, all, piece);
  });
  cuda::rank_sum(queue, all, piece, size(), sums, piece, /*add=*/false);
  cuda::enqueue(queue, [=](const cuda::CudaStream& to) {
    transport->all_gather(to.handle, sums, all, piece);
  });
  cuda::rank_sum(queue, all, 0, 1, target, count, /*add=*/true);
}

/// While the host waits for the device, for so many seconds now: throws when that is of no use.
void DeviceCommunicator::watch(double seconds) {
  check_whole();
  if (const std::optional<std::string> failure = transport_->failure()) {
    give_up(fmt::format("collectives between GPUs failed on shard {} of {}: {}", rank(), size(),
                        *failure));
    check_whole();
  }
  if (seconds < deadline_) return;
  // The device does not say who is missing. Those that are not come together on the host, which
  // names the rank that does not come.
  const std::string reason = fmt::format(
      "a pass with collectives between GPUs did not end within {:.1f} s on shard {} of {}",
      deadline_, rank(), size());
  give_up(reason);
  host_->barrier();
  throw_error(ErrorKind::kTimeout,
              "{}, though all ranks are there: set NCCL_DEBUG=INFO, or take --gpu-collectives host",
              reason);
}

void DeviceCommunicator::check_whole() {
  const std::lock_guard lock(mutex_);
  if (!broken_.empty()) throw Error(ErrorKind::kPeer, broken_);
}

/// Has what is enqueued end, so that the backend can wait for it.
void DeviceCommunicator::give_up(const std::string& reason) {
  {
    const std::lock_guard lock(mutex_);
    if (broken_.empty()) broken_ = reason;
  }
  // A transport does not go before the graphs that it is in.
  cuda::forget_graphs(backend_);
  transport_->abort();
}

}  // namespace

std::unique_ptr<Communicator> make_device_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       std::unique_ptr<DeviceTransport> transport,
                                                       const CommunicatorOptions& options) {
  return std::make_unique<DeviceCommunicator>(backend, std::move(host), std::move(transport),
                                              options);
}

}  // namespace convoke
