#include "actors/local_transport.h"

#include <algorithm>
#include <condition_variable>
#include <deque>
#include <mutex>

#include "actors/codec.h"
#include "kernels/check.h"

namespace convoke {
namespace detail {

struct LocalPacket {
  PeerId from;
  std::vector<std::byte> bytes;
  std::vector<std::byte> attachment;
};

/// What one end has yet to receive.
class LocalQueue {
 public:
  void push(LocalPacket packet) {
    const std::scoped_lock lock(mutex_);
    ready_.push_back(std::move(packet));
    arrived_.notify_one();
  }

  std::optional<LocalPacket> pop(Clock::time_point deadline) {
    std::unique_lock lock(mutex_);
    arrived_.wait_until(lock, deadline, [&] { return !ready_.empty(); });
    if (ready_.empty()) return std::nullopt;
    LocalPacket packet = std::move(ready_.front());
    ready_.pop_front();
    return packet;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<LocalPacket> ready_;
};

/// One direction of one link: a queue behind the faults.
class LocalWire {
 public:
  LocalWire(std::shared_ptr<LocalQueue> queue, std::vector<LocalFault> faults)
      : queue_(std::move(queue)), faults_(std::move(faults)) {}

  void push(LocalPacket packet) {
    const uint64_t index = count_++;
    const auto fault =
        std::ranges::find_if(faults_, [&](const LocalFault& f) { return f.index == index; });
    if (fault == faults_.end()) {
      deliver(std::move(packet));
      return;
    }
    switch (fault->kind) {
      case LocalFault::Kind::kDrop:
        return;
      case LocalFault::Kind::kDuplicate:
        deliver(packet);
        deliver(std::move(packet));
        return;
      case LocalFault::Kind::kDelay:
        held_.push_back({fault->amount, std::move(packet)});
        return;
      case LocalFault::Kind::kCorrupt:
        if (!packet.bytes.empty()) {
          packet.bytes[fault->amount % packet.bytes.size()] ^= std::byte{0xFF};
        }
        break;
      case LocalFault::Kind::kTruncate:
        packet.bytes.resize(packet.bytes.size() -
                            std::min<size_t>(fault->amount, packet.bytes.size()));
        break;
    }
    deliver(std::move(packet));
  }

 private:
  struct Held {
    uint32_t overtakers = 0;
    LocalPacket packet;
  };

  void deliver(LocalPacket packet) {
    queue_->push(std::move(packet));
    for (Held& held : held_) {
      if (held.overtakers > 0 && --held.overtakers == 0) queue_->push(std::move(held.packet));
    }
    std::erase_if(held_, [](const Held& held) { return held.overtakers == 0; });
  }

  std::shared_ptr<LocalQueue> queue_;
  std::vector<LocalFault> faults_;
  std::vector<Held> held_;
  uint64_t count_ = 0;
};

/// A mailbox and its peers, as both ends see them.
struct LocalHub {
  std::mutex mutex;
  bool open = true;
  std::string name;
  std::shared_ptr<LocalQueue> inbox = std::make_shared<LocalQueue>();
  std::map<PeerId, LocalWire> peers;  ///< wires towards the links
  std::vector<PeerId> departed;
};

namespace {

/// Decodes the next good packet; counts the bad ones.
std::optional<Letter> receive_from(LocalQueue& queue, Clock::time_point deadline,
                                   uint64_t& dropped) {
  while (auto packet = queue.pop(deadline)) {
    if (auto message = decode(packet->bytes)) {
      return Letter{std::move(packet->from), std::move(*message), std::move(packet->attachment)};
    }
    ++dropped;
  }
  return std::nullopt;
}

class LocalMailbox final : public Mailbox {
 public:
  explicit LocalMailbox(std::shared_ptr<LocalHub> hub) : hub_(std::move(hub)) {}
  ~LocalMailbox() override {
    const std::scoped_lock lock(hub_->mutex);
    hub_->open = false;
  }

  bool send(const PeerId& to, const Message& message,
            std::span<const std::byte> attachment) override {
    const std::scoped_lock lock(hub_->mutex);
    const auto peer = hub_->peers.find(to);
    if (peer == hub_->peers.end()) return false;
    peer->second.push({"", encode(message), {attachment.begin(), attachment.end()}});
    return true;
  }

  std::optional<Letter> receive(Clock::time_point deadline) override {
    return receive_from(*hub_->inbox, deadline, dropped_);
  }
  uint64_t dropped() const override { return dropped_; }
  std::vector<std::string> endpoints() const override { return {"local://" + hub_->name}; }
  std::vector<PeerId> departed() override {
    const std::scoped_lock lock(hub_->mutex);
    return std::exchange(hub_->departed, {});
  }

 private:
  std::shared_ptr<LocalHub> hub_;
  uint64_t dropped_ = 0;
};

class LocalLink final : public Link {
 public:
  LocalLink(std::shared_ptr<LocalHub> hub, PeerId id, std::vector<LocalFault> to_mailbox,
            std::vector<LocalFault> to_link)
      : hub_(std::move(hub)), id_(std::move(id)), outgoing_(hub_->inbox, std::move(to_mailbox)) {
    const std::scoped_lock lock(hub_->mutex);
    hub_->peers.emplace(id_, LocalWire(inbox_, std::move(to_link)));
  }
  ~LocalLink() override {
    const std::scoped_lock lock(hub_->mutex);
    hub_->peers.erase(id_);
    hub_->departed.push_back(id_);
  }

  bool send(const Message& message, std::span<const std::byte> attachment) override {
    return push({id_, encode(message), {attachment.begin(), attachment.end()}});
  }
  bool send_raw(std::span<const std::byte> bytes) override {
    return push({id_, {bytes.begin(), bytes.end()}, {}});
  }
  std::optional<Letter> receive(Clock::time_point deadline) override {
    return receive_from(*inbox_, deadline, dropped_);
  }
  uint64_t dropped() const override { return dropped_; }
  bool connected() override {
    const std::scoped_lock lock(hub_->mutex);
    return hub_->open;
  }

 private:
  bool push(LocalPacket packet) {
    if (!connected()) return false;
    outgoing_.push(std::move(packet));
    return true;
  }

  std::shared_ptr<LocalHub> hub_;
  PeerId id_;
  LocalWire outgoing_;
  std::shared_ptr<LocalQueue> inbox_ = std::make_shared<LocalQueue>();
  uint64_t dropped_ = 0;
};

}  // namespace
}  // namespace detail

std::unique_ptr<Mailbox> LocalNetwork::make_mailbox(const std::string& name) {
  CONVOKE_CHECK(!hubs_.contains(name));
  auto hub = std::make_shared<detail::LocalHub>();
  hub->name = name;
  hubs_[name] = hub;
  return std::make_unique<detail::LocalMailbox>(std::move(hub));
}

std::unique_ptr<Link> LocalNetwork::make_link(const std::string& mailbox,
                                              std::vector<LocalFault> to_mailbox,
                                              std::vector<LocalFault> to_link) {
  const auto hub = hubs_.find(mailbox);
  CONVOKE_CHECK(hub != hubs_.end());
  return std::make_unique<detail::LocalLink>(hub->second, fmt::format("link-{}", links_++),
                                             std::move(to_mailbox), std::move(to_link));
}

}  // namespace convoke
