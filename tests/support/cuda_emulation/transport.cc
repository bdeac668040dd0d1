#include "tests/support/cuda_emulation/transport.h"

#include <algorithm>
#include <map>
#include <mutex>

#include "kernels/check.h"
#include "tests/support/cuda_emulation/emulation.h"

namespace convoke::emulation {

class MeetingPlace {
 public:
  explicit MeetingPlace(int ranks) : size(ranks), ranks_(size_t(ranks)) {}
  const int size;

  /// When a rank's stream comes to an operation, what it brings.
  void bring(int rank, const float* data, int64_t count) {
    const std::lock_guard lock(mutex_);
    Rank& mine = ranks_[size_t(rank)];
    if (mine.aborted || mine.stalled) return;
    Operation& operation = operations_[++mine.operation];
    operation.brought.resize(size_t(size));
    operation.brought[size_t(rank)].assign(data, data + count);
    ++operation.came;
  }
  /// Whether all have come to the operation that this rank is at.
  bool complete(int rank) {
    const std::lock_guard lock(mutex_);
    const Rank& mine = ranks_[size_t(rank)];
    if (mine.aborted) return true;
    return !mine.stalled && operations_[mine.operation].came == size;
  }
  /// Copies `count` floats from `offset` of what each rank brought.
  void take(int rank, int64_t offset, int64_t count, float* to) {
    const std::lock_guard lock(mutex_);
    if (ranks_[size_t(rank)].aborted) return;
    const auto at = operations_.find(ranks_[size_t(rank)].operation);
    CONVOKE_CHECK(at != operations_.end());
    for (const std::vector<float>& brought : at->second.brought) {
      CONVOKE_CHECK_LE(size_t(offset + count), brought.size());  // ranks agree about sizes
      to = std::copy_n(brought.begin() + offset, count, to);
    }
    if (++at->second.left == size) operations_.erase(at);
  }

  void stall(int rank) {
    with(rank, [](Rank& r) { r.stalled = true; });
  }
  void fail(int rank) {
    with(rank, [](Rank& r) { r.failed = true; });
  }
  bool failed(int rank) {
    const std::lock_guard lock(mutex_);
    return ranks_[size_t(rank)].failed;
  }
  /// What a peer has enqueued goes on waiting, as with NCCL.
  void abort(int rank) {
    with(rank, [](Rank& r) { r.aborted = true; });
  }
  bool aborted(int rank) {
    const std::lock_guard lock(mutex_);
    return ranks_[size_t(rank)].aborted;
  }
  void count(int rank, bool gather) {
    const std::lock_guard lock(mutex_);
    if (rank == 0) ++(gather ? all_gathers : all_to_alls);
  }
  int all_gathers = 0, all_to_alls = 0;

 private:
  struct Rank {
    int64_t operation = 0;
    bool stalled = false, failed = false, aborted = false;
  };
  struct Operation {
    std::vector<std::vector<float>> brought;
    int came = 0, left = 0;
  };
  template <typename Change>
  void with(int rank, Change change) {
    const std::lock_guard lock(mutex_);
    change(ranks_[size_t(rank)]);
  }

  std::mutex mutex_;
  std::vector<Rank> ranks_;
  std::map<int64_t, Operation> operations_;
};

namespace {

class EmulatedTransport final : public DeviceTransport {
 public:
  EmulatedTransport(std::shared_ptr<MeetingPlace> exchange, int rank)
      : exchange_(std::move(exchange)), rank_(rank) {}

  std::string describe() const override { return "emulated copies"; }
  void all_gather(CUstream_st* stream, const float* mine, float* all, int64_t count) override {
    exchange_->count(rank_, true);
    copy(stream, mine, count, 0, all, count);
  }
  void all_to_all(CUstream_st* stream, const float* from, float* to, int64_t count) override {
    exchange_->count(rank_, false);
    copy(stream, from, exchange_->size * count, rank_ * count, to, count);
  }
  std::optional<std::string> failure() override {
    if (exchange_->failed(rank_)) return "an emulated link is down";
    return std::nullopt;
  }
  void abort() noexcept override { exchange_->abort(rank_); }

 private:
  void copy(CUstream_st* stream, const float* mine, int64_t brought, int64_t offset, float* to,
            int64_t count) {
    if (exchange_->aborted(rank_)) throw_error(ErrorKind::kPeer, "emulated copies were aborted");
    const void* const pointers[] = {mine, to};
    check_argument_words(pointers, sizeof pointers);
    auto exchange = exchange_;
    const int rank = rank_;
    enqueue(stream, [=] { exchange->bring(rank, mine, brought); });
    enqueue(
        stream, [=] { exchange->take(rank, offset, count, to); },
        [=] { return exchange->complete(rank); });
  }

  std::shared_ptr<MeetingPlace> exchange_;
  int rank_;
};

}  // namespace

Transports::Transports(int ranks) : exchange_(std::make_shared<MeetingPlace>(ranks)) {}
Transports::~Transports() = default;

std::unique_ptr<DeviceTransport> Transports::take(int rank) {
  return std::make_unique<EmulatedTransport>(exchange_, rank);
}
void Transports::stall(int rank) {
  exchange_->stall(rank);
}
void Transports::fail(int rank) {
  exchange_->fail(rank);
}
int Transports::all_gathers() const {
  return exchange_->all_gathers;
}
int Transports::all_to_alls() const {
  return exchange_->all_to_alls;
}

}  // namespace convoke::emulation
