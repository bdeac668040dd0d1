// A PeerLink between threads of a process: mailboxes under one mutex. Lets the block communicator
// be tested in every division into blocks without MPI.
#pragma once

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <vector>

#include "parallel/peer_link.h"

namespace convoke::test {

struct LocalExchange {
  std::mutex mutex;
  std::condition_variable news;
  std::map<std::pair<int, int>, std::deque<std::vector<std::byte>>> letters;  // (from, to)
  // By receiver; not as Errors, whose text is shared between copies by a count that the thread
  // sanitizer cannot see.
  std::map<int, std::vector<std::pair<ErrorKind, std::string>>> aborts;
  std::map<int, uint64_t> marks;  // by sender
  // Called by every rank when its transfers are done: a test can hold it there, as if stopped.
  std::function<void(int rank)> after_transfers = [](int) {};
};

class LocalLink final : public PeerLink {
 public:
  LocalLink(std::shared_ptr<LocalExchange> exchange, int rank, int size)
      : exchange_(std::move(exchange)), rank_(rank), size_(size) {}

  int run(std::span<const Transfer> transfers, FunctionRef<bool()> stopped) override {
    for (const Transfer& t : transfers) {
      if (t.out == nullptr) continue;
      const auto* bytes = static_cast<const std::byte*>(t.out);
      const std::lock_guard lock(exchange_->mutex);
      exchange_->letters[{rank_, t.peer}].emplace_back(bytes, bytes + t.out_bytes);
    }
    exchange_->news.notify_all();
    for (const Transfer& t : transfers) {
      if (t.in == nullptr) continue;
      awaited_ = t.peer;
      while (!take(t)) {
        if (stopped()) return kStopped;
      }
    }
    exchange_->after_transfers(rank_);
    return kDone;
  }

  int awaited() override { return awaited_; }

  std::string failure() const override { return {}; }

  void send_abort(const Error& error) noexcept override {
    const std::lock_guard lock(exchange_->mutex);
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) exchange_->aborts[r].emplace_back(error.kind(), error.what());
    }
    exchange_->news.notify_all();
  }

  std::optional<Error> take_abort() override {
    const std::lock_guard lock(exchange_->mutex);
    auto& mine = exchange_->aborts[rank_];
    if (mine.empty()) return std::nullopt;
    const Error error(mine.front().first, mine.front().second);
    mine.clear();
    return error;
  }

  void publish(uint64_t mark) override {
    const std::lock_guard lock(exchange_->mutex);
    exchange_->marks[rank_] = mark;
  }

  void read(std::span<uint64_t> marks) override {
    const std::lock_guard lock(exchange_->mutex);
    for (int r = 0; r < size_; ++r) marks[size_t(r)] = exchange_->marks[r];
  }

 private:
  bool take(const Transfer& t) {
    std::unique_lock lock(exchange_->mutex);
    auto& queue = exchange_->letters[{t.peer, rank_}];
    if (queue.empty()) exchange_->news.wait_for(lock, std::chrono::milliseconds(5));
    if (queue.empty()) return false;
    CONVOKE_CHECK_LE(queue.front().size(), t.in_bytes);
    if (!queue.front().empty()) std::memcpy(t.in, queue.front().data(), queue.front().size());
    queue.pop_front();
    return true;
  }

  std::shared_ptr<LocalExchange> exchange_;
  int rank_;
  int size_;
  int awaited_ = kDone;
};

}  // namespace convoke::test
