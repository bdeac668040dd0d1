#include "parallel/device_communicator.h"

#include <algorithm>
#include <mutex>

#include "kernels/check.h"
#include "kernels/cuda/cuda_backend.h"
#include "kernels/cuda/kernels.h"
#include "parallel/staged_communicator.h"

namespace convoke {
namespace {

constexpr int64_t kUnit = 16;  // pieces are multiples of so many floats: aligned everywhere

class DeviceCommunicator final : public Communicator {
 public:
  DeviceCommunicator(Backend& backend, std::unique_ptr<Communicator> host, DeviceLinks links,
                     const CommunicatorOptions& options)
      : backend_(backend),
        host_(std::move(host)),
        links_(std::move(links)),
        gather_(backend, *host_),
        capacity_(options.reduce_capacity),
        deadline_(options.deadline_seconds / 2) {
    const auto floats = [&](int64_t count) {
      return backend.allocate(size_t(count) * sizeof(float));
    };
    // The last piece of a large sum may reach beyond it.
    const int64_t room = piece_of(capacity_) * size();
    contribution_ = floats(room);
    cuda::set_wait_monitor(backend_, [this](double seconds) { watch(seconds); });
    if (links_.peers != nullptr) {
      const int64_t most = links_.peers->regions().capacity;
      one_shot_ = links_.transport == nullptr ? most : std::min(most, one_shot_bytes(size()) / 4);
    }
    if (links_.transport == nullptr) return;
    gathered_ = floats(std::max(room, std::min(capacity_, kSmallSumBytes / 4) * size()));
    piece_ = floats(piece_of(capacity_));
  }
  ~DeviceCommunicator() override {
    cuda::set_wait_monitor(backend_, {});
    cuda::forget_graphs(backend_);  // before the links that are in them
  }

  int rank() const override { return host_->rank(); }
  int size() const override { return host_->size(); }
  std::string describe() const override {
    std::string how;
    if (links_.peers != nullptr) {
      how = fmt::format("one-shot sums over {}", links_.peers->describe());
      if (links_.transport != nullptr) how += fmt::format(" up to {} kB, ", one_shot_ * 4 / 1024);
    }
    if (links_.transport != nullptr) how += links_.transport->describe();
    if (!links_.note.empty()) how += fmt::format(" ({})", links_.note);
    return fmt::format("{}, {} beside it", how, host_->describe());
  }

  float* reduce_buffer() override { return static_cast<float*>(contribution_->data()); }
  void all_reduce_add(Stream& stream, float* target, int64_t count) override;
  bool fuses_norm() const override { return links_.peers != nullptr; }
  void all_reduce_add_norm(Stream& stream, const ResidualSum& sum) override;

  void all_gather(Stream& stream, std::span<const std::byte> mine,
                  std::span<std::byte> all) override {
    host_->all_gather(stream, mine, all);
  }
  void all_gather_floats(Stream& stream, const float* mine, float* all, int64_t count) override {
    if (links_.transport == nullptr) return gather_.gather(stream, mine, all, count);
    check_whole();  // a graph would not
    cuda::enqueue(cuda::queue_of(stream),
                  [=, transport = links_.transport.get()](const cuda::CudaStream& to) {
                    transport->all_gather(to.handle, mine, all, count);
                  });
  }
  void reserve_gather(int64_t count) override {
    if (links_.transport == nullptr) gather_.reserve(count);
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
    abort_links();
  }

 private:
  int64_t piece_of(int64_t count) const {
    const int64_t piece = (count + size() - 1) / size();
    return (piece + kUnit - 1) / kUnit * kUnit;
  }
  void abort_links() noexcept {
    if (links_.peers != nullptr) links_.peers->abort();
    if (links_.transport != nullptr) links_.transport->abort();
  }
  void watch(double seconds);
  void check_whole();
  void give_up(const std::string& reason);

  Backend& backend_;
  std::unique_ptr<Communicator> host_;
  DeviceLinks links_;
  HostGather gather_;  ///< of logits, where there is no transport
  const int64_t capacity_;
  const double deadline_;
  int64_t one_shot_ = 0;  ///< floats that one kernel adds up at most
  std::unique_ptr<Buffer> contribution_;
  std::unique_ptr<Buffer> gathered_;  ///< [ranks][count or piece]; with a transport, as piece_
  std::unique_ptr<Buffer> piece_;     ///< this rank's sums of a large sum
  std::mutex mutex_;
  std::string broken_;  ///< why, once it is
};

void DeviceCommunicator::all_reduce_add(Stream& stream, float* target, int64_t count) {
  CONVOKE_CHECK(0 <= count && count <= capacity_);
  check_whole();  // a graph would not
  const cuda::CudaStream& queue = cuda::queue_of(stream);
  auto* const mine = static_cast<float*>(contribution_->data());
  if (count <= one_shot_ || links_.transport == nullptr) {
    for (int64_t begin = 0; begin < count; begin += one_shot_) {
      cuda::one_shot_sum(queue, links_.peers->regions(),
                         {.mine = mine + begin,
                          .target = target + begin,
                          .rows = 1,
                          .columns = std::min(one_shot_, count - begin)});
    }
    return;
  }
  DeviceTransport* const transport = links_.transport.get();
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

void DeviceCommunicator::all_reduce_add_norm(Stream& stream, const ResidualSum& sum) {
  CONVOKE_CHECK(fuses_norm());
  const cuda::CudaStream& queue = cuda::queue_of(stream);
  const int64_t count = sum.rows * sum.columns;
  if (count <= one_shot_) {
    CONVOKE_CHECK_LE(count, capacity_);
    check_whole();
    cuda::one_shot_sum(queue, links_.peers->regions(),
                       {.mine = static_cast<const float*>(contribution_->data()),
                        .target = sum.target,
                        .rows = sum.rows,
                        .columns = sum.columns,
                        .bias = sum.bias,
                        .norm_weight = sum.norm_weight,
                        .norm_epsilon = sum.norm_epsilon,
                        .normalised = sum.normalised});
    return;
  }
  all_reduce_add(stream, sum.target, count);
  const TensorView x = TensorView::matrix(sum.target, DType::kFloat32, sum.rows, sum.columns);
  if (sum.bias != nullptr) cuda::add_bias(queue, x, sum.bias);
  cuda::rms_norm(queue, {x, sum.norm_weight, sum.norm_epsilon, sum.normalised, {}});
}

/// While the host waits for the device, for so many seconds now: throws when that is of no use.
void DeviceCommunicator::watch(double seconds) {
  check_whole();
  const auto failure = links_.transport == nullptr ? std::nullopt : links_.transport->failure();
  if (failure.has_value()) {
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
  throw_error(ErrorKind::kTimeout, "{}, though all ranks are there: {}take --gpu-collectives host",
              reason, links_.transport == nullptr ? "" : "set NCCL_DEBUG=INFO, or ");
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
  abort_links();
}

}  // namespace

int64_t one_shot_bytes(int ranks) {
  return ranks == 2 ? int64_t{8} << 20 : ranks == 4 ? int64_t{512} << 10 : int64_t{256} << 10;
}

std::unique_ptr<Communicator> make_device_communicator(Backend& backend,
                                                       std::unique_ptr<Communicator> host,
                                                       DeviceLinks links,
                                                       const CommunicatorOptions& options) {
  CONVOKE_CHECK(links.transport != nullptr || links.peers != nullptr);
  return std::make_unique<DeviceCommunicator>(backend, std::move(host), std::move(links), options);
}

}  // namespace convoke
