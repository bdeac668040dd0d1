#include "parallel/wait_watch.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke {
namespace {

// Between two looks at the board.
constexpr std::chrono::milliseconds kPause{5};

constexpr int kVersionAt = 48;
constexpr int kSuspicionAt = 32;
constexpr int kSuspiciousAt = 31;
constexpr int kOperationAt = 24;
constexpr uint64_t kOperationMask = 0x7f;
constexpr uint64_t kAwaitedMask = 0xff'ffff;  // the rank plus one

}  // namespace

uint64_t WaitMark::packed() const {
  return uint64_t(version) << kVersionAt | uint64_t(suspicion) << kSuspicionAt |
         uint64_t(suspicious) << kSuspiciousAt |
         (uint64_t(operation) & kOperationMask) << kOperationAt |
         (uint64_t(awaited + 1) & kAwaitedMask);
}

WaitMark WaitMark::unpack(uint64_t bits) {
  WaitMark mark;
  mark.awaited = int(bits & kAwaitedMask) - 1;
  mark.operation = int(bits >> kOperationAt & kOperationMask);
  mark.suspicious = (bits >> kSuspiciousAt & 1) != 0;
  mark.suspicion = uint16_t(bits >> kSuspicionAt);
  mark.version = uint16_t(bits >> kVersionAt);
  return mark;
}

WaitWatch::WaitWatch(WaitBoard& board, int rank, int size, double deadline_seconds)
    : board_(board),
      rank_(rank),
      deadline_(int64_t(deadline_seconds * 1e9)),
      marks_(size_t(size)),
      old_(size_t(size)),
      answered_(size_t(size)),
      visited_(size_t(size)) {
  CONVOKE_CHECK(0 <= rank && rank < size && uint64_t(size) < kAwaitedMask);
}

std::optional<WaitWatch::Blame> WaitWatch::look(Time now, FunctionRef<int()> awaited) {
  if (started_ == Time{}) started_ = looked_ = now;
  const auto waited = now - started_;
  if (now - looked_ < kPause) return std::nullopt;
  looked_ = now;
  board_.read(marks_);
  const bool suspects = !mine_.suspicious && waited >= deadline_ / 2;
  if (!published_ && !suspects && !asked()) return std::nullopt;
  const int peer = awaited();
  if (peer < 0) return std::nullopt;
  if (suspects) {
    mine_.suspicious = true;
    ++mine_.suspicion;
    old_ = marks_;
    suspected_ = now;
  }
  if (suspects || mine_.awaited != peer || asked()) publish(peer);
  // The others get their time to answer even if this rank was kept from looking until now.
  if (!mine_.suspicious || now - suspected_ < deadline_ / 2) return std::nullopt;
  return judge(peer);
}

// By a suspicious rank, since our mark was published. Marks without suspicion ask nothing, so that
// answers do not call forth answers.
bool WaitWatch::asked() const {
  for (size_t r = 0; r < marks_.size(); ++r) {
    const WaitMark mark = WaitMark::unpack(marks_[r]);
    if (int(r) == rank_ || !mark.suspicious) continue;
    if (!published_ || mark.suspicion != answered_[r]) return true;
  }
  return false;
}

void WaitWatch::publish(int awaited) {
  mine_.awaited = awaited;
  mine_.operation = operation_;
  ++mine_.version;
  for (size_t r = 0; r < marks_.size(); ++r) answered_[r] = WaitMark::unpack(marks_[r]).suspicion;
  published_ = true;
  board_.publish(mine_.packed());
}

void WaitWatch::withdraw() {
  mine_.awaited = -1;
  mine_.suspicious = false;
  ++mine_.version;
  published_ = false;
  board_.publish(mine_.packed());
}

WaitWatch::Blame WaitWatch::judge(int awaited) {
  std::fill(visited_.begin(), visited_.end(), false);
  visited_[size_t(rank_)] = true;
  Blame blame{awaited, operation_};
  while (true) {
    const auto at = size_t(blame.rank);
    visited_[at] = true;
    const WaitMark mark = WaitMark::unpack(marks_[at]);
    const bool fresh = marks_[at] != old_[at];
    if (!fresh || mark.awaited < 0 || size_t(mark.awaited) >= marks_.size()) return blame;
    if (visited_[size_t(mark.awaited)]) return blame;
    blame = {mark.awaited, mark.operation};
  }
}

}  // namespace convoke
