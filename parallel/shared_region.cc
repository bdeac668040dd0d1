#include "parallel/shared_region.h"

#include <linux/futex.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <ctime>
#include <new>
#include <thread>

namespace convoke {
namespace {

using Steady = std::chrono::steady_clock;

// Two cache lines: processors prefetch lines in pairs.
constexpr size_t kLine = 128;
// A sleeper looks up this often even if nobody wakes it: a peer that died between posting and
// waking must not cost more than this, and abort() need not know who sleeps where.
constexpr std::chrono::milliseconds kNap{20};

static_assert(std::atomic<uint32_t>::is_always_lock_free &&
                  std::atomic<uint64_t>::is_always_lock_free,
              "shared-memory synchronisation needs address-free atomics");

size_t round_up(size_t bytes, size_t unit) {
  return (bytes + unit - 1) / unit * unit;
}

void relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

// Not FUTEX_PRIVATE: the word may lie in memory shared with other processes.
void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected,
                std::chrono::nanoseconds limit) {
  timespec time{};
  time.tv_sec = time_t(limit.count() / 1'000'000'000);
  time.tv_nsec = long(limit.count() % 1'000'000'000);
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &time, nullptr, 0);
}

void futex_wake_all(std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT32_MAX, nullptr, nullptr, 0);
}

bool reached(uint32_t value, uint32_t sequence) {
  return static_cast<int32_t>(value - sequence) >= 0;
}

}  // namespace

struct SharedRegion::RankState {
  alignas(kLine) std::atomic<uint32_t> posted{0};
  alignas(kLine) mutable std::atomic<uint32_t> sleepers{0};  // waiting for `posted` to move
  alignas(kLine) std::atomic<uint64_t> mark{0};
};

struct SharedRegion::Fault {
  enum State : uint32_t { kNone, kWriting, kSet };
  alignas(kLine) std::atomic<uint32_t> state{kNone};
  uint32_t kind = 0;
  char reason[1000] = {};
};

// Offsets from the start of the region.
struct SharedRegion::Layout {
  size_t states, lengths, messages, gather, reduce, total;
  size_t message_stride, gather_stride, reduce_stride;

  explicit Layout(const RegionShape& shape) {
    const size_t ranks = size_t(shape.ranks);
    states = round_up(sizeof(Fault), kLine);
    lengths = states + ranks * sizeof(RankState);
    messages = lengths + 2 * kLine;
    message_stride = round_up(size_t(shape.message_capacity), kLine);
    gather = messages + 2 * message_stride;
    gather_stride = round_up(size_t(shape.gather_capacity), kLine);
    reduce = round_up(gather + 2 * ranks * gather_stride, kAlignment);
    reduce_stride = round_up(size_t(shape.reduce_capacity) * sizeof(float), kLine);
    total = round_up(reduce + 2 * ranks * reduce_stride, kAlignment);
  }
};

size_t SharedRegion::bytes(const RegionShape& shape) {
  return Layout(shape).total;
}

void SharedRegion::initialise(void* memory, const RegionShape& shape) {
  CONVOKE_CHECK(1 <= shape.ranks && shape.ranks <= kMaxRanks);
  CONVOKE_CHECK_EQ(reinterpret_cast<uintptr_t>(memory) % kLine, 0u);
  const Layout layout(shape);
  auto* base = static_cast<std::byte*>(memory);
  new (base) Fault;
  for (int r = 0; r < shape.ranks; ++r) {
    new (base + layout.states + size_t(r) * sizeof(RankState)) RankState;
  }
  std::memset(base + layout.lengths, 0, 2 * kLine);
}

SharedRegion::SharedRegion(void* memory, const RegionShape& shape, int rank)
    : memory_(static_cast<std::byte*>(memory)), shape_(shape), rank_(rank) {
  CONVOKE_CHECK(0 <= rank && rank < shape.ranks);
}

SharedRegion::Layout SharedRegion::layout() const {
  return Layout(shape_);
}

SharedRegion::RankState& SharedRegion::state(int rank) const {
  return reinterpret_cast<RankState*>(memory_ + layout().states)[rank];
}

SharedRegion::Fault& SharedRegion::fault() const {
  return *reinterpret_cast<Fault*>(memory_);
}

float* SharedRegion::reduce_buffer(int rank, int parity) const {
  const Layout l = layout();
  return reinterpret_cast<float*>(memory_ + l.reduce + size_t(2 * rank + parity) * l.reduce_stride);
}

std::byte* SharedRegion::gather_buffer(int rank, int parity) const {
  const Layout l = layout();
  return memory_ + l.gather + size_t(2 * rank + parity) * l.gather_stride;
}

uint64_t& SharedRegion::message_length(int parity) const {
  return *reinterpret_cast<uint64_t*>(memory_ + layout().lengths + size_t(parity) * kLine);
}

std::byte* SharedRegion::message_bytes(int parity) const {
  const Layout l = layout();
  return memory_ + l.messages + size_t(parity) * l.message_stride;
}

void SharedRegion::post(uint32_t sequence) {
  RankState& mine = state(rank_);
  // Sequentially consistent on both sides: either the sleeper sees the new value or we see the
  // sleeper.
  mine.posted.store(sequence, std::memory_order_seq_cst);
  if (mine.sleepers.load(std::memory_order_seq_cst) != 0) futex_wake_all(mine.posted);
}

WaitResult SharedRegion::wait_for(int rank, uint32_t sequence, const WaitPolicy& policy) const {
  const RankState& peer = state(rank);
  const auto here = [&] { return reached(peer.posted.load(std::memory_order_acquire), sequence); };
  for (int i = 0; i <= policy.spins; ++i) {
    if (here()) return WaitResult::kDone;
    relax();
  }
  for (int i = 0; i < policy.yields; ++i) {
    std::this_thread::yield();
    if (here()) return WaitResult::kDone;
  }
  const auto end = Steady::now() + policy.limit;
  while (true) {
    if (broken()) return WaitResult::kBroken;
    const auto left = end - Steady::now();
    if (left <= left.zero()) return here() ? WaitResult::kDone : WaitResult::kTimeout;
    peer.sleepers.fetch_add(1, std::memory_order_seq_cst);
    const uint32_t seen = peer.posted.load(std::memory_order_seq_cst);
    if (!reached(seen, sequence)) {
      futex_wait(peer.posted, seen, std::min<std::chrono::nanoseconds>(left, kNap));
    }
    peer.sleepers.fetch_sub(1, std::memory_order_seq_cst);
    if (here()) return WaitResult::kDone;
    if (policy.poll != nullptr) (*policy.poll)();
  }
}

void SharedRegion::set_mark(uint64_t mark) {
  state(rank_).mark.store(mark, std::memory_order_relaxed);
}

uint64_t SharedRegion::mark(int rank) const {
  return state(rank).mark.load(std::memory_order_relaxed);
}

void SharedRegion::break_with(ErrorKind kind, const std::string& reason) noexcept {
  Fault& f = fault();
  uint32_t none = Fault::kNone;
  if (!f.state.compare_exchange_strong(none, Fault::kWriting)) return;
  f.kind = uint32_t(kind);
  const size_t length = std::min(reason.size(), sizeof(f.reason) - 1);
  std::memcpy(f.reason, reason.data(), length);
  f.reason[length] = '\0';
  f.state.store(Fault::kSet, std::memory_order_release);
  for (int r = 0; r < shape_.ranks; ++r) futex_wake_all(state(r).posted);
}

bool SharedRegion::broken() const {
  return fault().state.load(std::memory_order_relaxed) != Fault::kNone;
}

Error SharedRegion::error() const {
  const Fault& f = fault();
  // Its writer needs microseconds, unless it was killed there.
  for (int i = 0; i < 1000 && f.state.load(std::memory_order_acquire) != Fault::kSet; ++i) {
    std::this_thread::sleep_for(std::chrono::microseconds(10));
  }
  if (f.state.load(std::memory_order_acquire) != Fault::kSet) {
    return {ErrorKind::kPeer, "a rank was lost while it reported a failure"};
  }
  return {ErrorKind(f.kind), f.reason};
}

}  // namespace convoke
