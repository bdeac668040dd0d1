#include "actors/zmq_transport.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/random.h>
#include <unistd.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <mutex>
#include <unordered_map>
#include <zmq.hpp>

#include "actors/codec.h"
#include "kernels/check.h"

#ifdef __SANITIZE_THREAD__
// The system's libzmq is not instrumented, so the sanitizer cannot see that its queues order what
// passes through them.
extern "C" const char* __tsan_default_suppressions();
extern "C" const char* __tsan_default_suppressions() {
  return "race:libzmq.so\ncalled_from_lib:libzmq.so\n";
}
#endif

namespace convoke {
namespace {

/// One context per process, for as long as any socket lives.
std::shared_ptr<zmq::context_t> shared_context() {
  static std::mutex mutex;
  static std::weak_ptr<zmq::context_t> current;
  const std::scoped_lock lock(mutex);
  auto context = current.lock();
  if (!context) {
    context = std::make_shared<zmq::context_t>(1);
    current = context;
  }
  return context;
}

std::string random_name() {
  uint64_t bits = 0;
  if (::getrandom(&bits, sizeof bits, 0) != sizeof bits) {
    throw_error(ErrorKind::kResource, "no random numbers from the system");
  }
  return fmt::format("{}-{:016x}", ::getpid(), bits);
}

/// A directory that only we can enter, gone with the object.
class PrivateDirectory {
 public:
  PrivateDirectory() {
    const char* base = std::getenv("TMPDIR");
    std::string path = std::string(base && *base ? base : "/tmp") + "/convoke-XXXXXX";
    if (!::mkdtemp(path.data())) {  // mode 0700
      throw_error(ErrorKind::kResource, "cannot make a directory for sockets like {}: {}", path,
                  std::strerror(errno));
    }
    path_ = path;
  }
  PrivateDirectory(const PrivateDirectory&) = delete;
  PrivateDirectory& operator=(const PrivateDirectory&) = delete;
  ~PrivateDirectory() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

/// At most one line per second, saying how many were left out.
class MalformedLog {
 public:
  void report(const std::string& from, const std::string& why) {
    ++count_;
    const auto now = Clock::now();
    if (count_ > 1 && now - last_ < std::chrono::seconds(1)) {
      ++unsaid_;
      return;
    }
    spdlog::warn("dropped a malformed message{}{}: {}{}", from.empty() ? "" : " from ", from, why,
                 unsaid_ ? fmt::format(" ({} more unsaid)", unsaid_) : "");
    last_ = now;
    unsaid_ = 0;
  }
  uint64_t count() const { return count_; }

 private:
  uint64_t count_ = 0;
  uint64_t unsaid_ = 0;
  Clock::time_point last_;
};

/// Follows connections through the socket's monitor.
class ConnectionMonitor {
 public:
  struct Event {
    uint16_t kind = 0;
    int fd = -1;
  };

  ConnectionMonitor(zmq::context_t& context, zmq::socket_t& watched)
      : events_(context, zmq::socket_type::pair), watched_(watched) {
    const std::string name = "inproc://monitor-" + random_name();
    constexpr int kEvents = ZMQ_EVENT_HANDSHAKE_SUCCEEDED | ZMQ_EVENT_DISCONNECTED;
    if (zmq_socket_monitor(watched.handle(), name.c_str(), kEvents) != 0) throw zmq::error_t();
    events_.set(zmq::sockopt::linger, 0);
    events_.connect(name);
  }
  ~ConnectionMonitor() { zmq_socket_monitor(watched_.handle(), nullptr, 0); }
  ConnectionMonitor(const ConnectionMonitor&) = delete;
  ConnectionMonitor& operator=(const ConnectionMonitor&) = delete;

  std::optional<Event> next() {
    zmq::message_t frame;
    if (!events_.recv(frame, zmq::recv_flags::dontwait)) return std::nullopt;
    Event event;
    if (frame.size() >= sizeof(uint16_t) + sizeof(uint32_t)) {
      std::memcpy(&event.kind, frame.data(), sizeof event.kind);
      std::memcpy(&event.fd, static_cast<const char*>(frame.data()) + sizeof event.kind,
                  sizeof event.fd);
    }
    zmq::message_t endpoint;
    (void)events_.recv(endpoint, zmq::recv_flags::dontwait);
    return event;
  }

 private:
  zmq::socket_t events_;
  zmq::socket_t& watched_;
};

/// What ROUTER and DEALER have in common.
class ZmqEnd {
 public:
  ZmqEnd(zmq::socket_type type, const ZmqOptions& options)
      : context_(shared_context()), socket_(*context_, type), spin_(options.spin) {
    using namespace zmq::sockopt;
    socket_.set(sndhwm, options.high_water);
    socket_.set(rcvhwm, options.high_water);
    socket_.set(zmq::sockopt::linger, int(options.linger.count()));
    socket_.set(maxmsgsize, int64_t(WireLimits::kAttachmentBytes));
    socket_.set(heartbeat_ivl, int(options.heartbeat.count()));
    socket_.set(heartbeat_timeout, int(options.silence.count()));
    socket_.set(heartbeat_ttl, int(options.silence.count()));
    socket_.set(handshake_ivl, int(options.silence.count()));
    fd_ = socket_.get(zmq::sockopt::fd);
  }

  zmq::socket_t& socket() { return socket_; }
  zmq::context_t& context() { return *context_; }
  uint64_t dropped() const { return log_.count(); }

  bool send(const PeerId* to, const Message& message, std::span<const std::byte> attachment) {
    encode(message, buffer_);
    if (buffer_.size() > WireLimits::kMessageBytes ||
        attachment.size() > WireLimits::kAttachmentBytes) {
      spdlog::error("not sent: a message of {} bytes with an attachment of {} is too large",
                    buffer_.size(), attachment.size());
      return false;
    }
    return send_frames(to, buffer_, attachment);
  }

  bool send_frames(const PeerId* to, std::span<const std::byte> body,
                   std::span<const std::byte> attachment) {
    const bool more = !attachment.empty();
    // The first frame decides whether the peer can take the message; the rest then fits, too.
    if (to && !send_frame(to->data(), to->size(), true)) return false;
    return send_frame(body.data(), body.size(), more) &&
           (!more || send_frame(attachment.data(), attachment.size(), false));
  }

  /// A decoded letter, or nothing at the deadline. `routed`: an identity frame comes first.
  /// `seen` is called with identity and connection for every message, malformed ones, too.
  template <typename Seen>
  std::optional<Letter> receive(Clock::time_point deadline, bool routed, Seen seen) {
    // A flood of nonsense must not hold its receiver beyond the deadline for ever.
    for (int malformed = 0; malformed < kMalformedPerCall; ++malformed) {
      if (!wait_for_frames(deadline)) break;
      Letter letter;
      if (routed) letter.from = frames_[0].to_string();
      seen(letter.from, frames_.back());
      if (read_letter(std::span(frames_).subspan(routed), letter)) return letter;
    }
    return std::nullopt;
  }

 private:
  bool send_frame(const void* data, size_t size, bool more) {
    const int flags = ZMQ_DONTWAIT | (more ? ZMQ_SNDMORE : 0);
    // Not an exception: a full queue or a peer that is gone is daily business.
    while (zmq_send(socket_.handle(), data, size, flags) < 0) {
      if (zmq_errno() != EINTR) return false;
    }
    return true;
  }

  bool wait_for_frames(Clock::time_point deadline) {
    if (take_frames()) return true;
    const auto spin_end = std::min(deadline, Clock::now() + spin_);
    for (;;) {
      const auto now = Clock::now();
      if (now >= deadline) return false;
      if (now >= spin_end) sleep_until(deadline, now);
      if (take_frames()) return true;
    }
  }

  /// ZeroMQ's own poll counts in milliseconds; the descriptor lets us wait as long as we mean to.
  /// It signals edges: only after a receive said "nothing there" may it be waited for.
  void sleep_until(Clock::time_point deadline, Clock::time_point now) {
    using std::chrono::duration_cast, std::chrono::nanoseconds, std::chrono::seconds;
    const auto left = std::min<Clock::duration>(deadline - now, seconds(1));
    const auto whole = duration_cast<seconds>(left);
    const timespec timeout{whole.count(), duration_cast<nanoseconds>(left - whole).count()};
    pollfd descriptor{fd_, POLLIN, 0};
    (void)::ppoll(&descriptor, 1, &timeout, nullptr);
  }

  /// All frames of one message, without waiting.
  bool take_frames() {
    frames_.clear();
    for (;;) {
      zmq::message_t& frame = frames_.emplace_back();
      while (zmq_msg_recv(frame.handle(), socket_.handle(), ZMQ_DONTWAIT) < 0) {
        if (zmq_errno() == EINTR) continue;
        frames_.clear();
        return false;
      }
      if (!frame.more()) return true;
      // A message is at most identity, body and attachment; of a longer one the rest is read away.
      if (frames_.size() > kMaxFrames) frames_.pop_back();
    }
  }

  bool read_letter(std::span<zmq::message_t> frames, Letter& letter) {
    const auto bytes = [](const zmq::message_t& frame) {
      return std::span(static_cast<const std::byte*>(frame.data()), frame.size());
    };
    std::string why;
    if (frames.empty() || frames.size() > 2) {
      why = fmt::format("{} frames", frames.size());
    } else {
      try {
        if (auto message = decode(bytes(frames[0]), &why)) {
          letter.message = std::move(*message);
          if (frames.size() == 2) {
            const auto raw = bytes(frames[1]);
            letter.attachment.assign(raw.begin(), raw.end());
          }
          return true;
        }
      } catch (const std::exception& error) {  // memory
        why = error.what();
      }
    }
    log_.report(letter.from, why);
    return false;
  }

  static constexpr size_t kMaxFrames = 4;
  static constexpr int kMalformedPerCall = 256;

  std::shared_ptr<zmq::context_t> context_;
  zmq::socket_t socket_;
  int fd_ = -1;
  std::chrono::microseconds spin_;
  std::vector<std::byte> buffer_;
  std::vector<zmq::message_t> frames_;
  MalformedLog log_;
};

bool has_scheme(const std::string& endpoint, const char* scheme) {
  return endpoint.rfind(scheme, 0) == 0;
}

void require_scheme(const std::string& endpoint) {
  if (!has_scheme(endpoint, "inproc://") && !has_scheme(endpoint, "ipc://") &&
      !has_scheme(endpoint, "tcp://")) {
    throw_error(ErrorKind::kUsage, "endpoint '{}': expected inproc://, ipc:// or tcp://", endpoint);
  }
}

class ZmqMailbox final : public Mailbox {
 public:
  ZmqMailbox(const std::vector<std::string>& endpoints, const ZmqOptions& options)
      : end_(zmq::socket_type::router, options), monitor_(end_.context(), end_.socket()) {
    end_.socket().set(zmq::sockopt::router_mandatory, 1);
    // A link keeps its identity when it reconnects; the newer connection is the living one.
    end_.socket().set(zmq::sockopt::router_handover, 1);
    for (const std::string& endpoint : endpoints) bind(endpoint);
  }

  bool send(const PeerId& to, const Message& message,
            std::span<const std::byte> attachment) override {
    return end_.send(&to, message, attachment);
  }

  std::optional<Letter> receive(Clock::time_point deadline) override {
    return end_.receive(deadline, true, [this](const PeerId& from, zmq::message_t& frame) {
      // The monitor names connections by descriptor, and descriptors are used again: what the
      // monitor has to say about older ones comes first.
      drain_monitor();
      const int fd = zmq_msg_get(frame.handle(), ZMQ_SRCFD);
      if (fd >= 0) peers_[fd] = from;
    });
  }

  uint64_t dropped() const override { return end_.dropped(); }
  std::vector<std::string> endpoints() const override { return endpoints_; }

  std::vector<PeerId> departed() override {
    drain_monitor();
    return std::exchange(departed_, {});
  }

 private:
  void bind(const std::string& endpoint) {
    require_scheme(endpoint);
    std::string name = endpoint;
    if (endpoint == "ipc://*") {
      if (!directory_) directory_ = std::make_unique<PrivateDirectory>();
      name = fmt::format("ipc://{}/{}", directory_->path(), endpoints_.size());
    }
    try {
      end_.socket().bind(name);
    } catch (const zmq::error_t& error) {
      throw_error(ErrorKind::kResource, "cannot bind the endpoint {}: {}", name, error.what());
    }
    endpoints_.push_back(end_.socket().get(zmq::sockopt::last_endpoint));
  }

  void drain_monitor() {
    while (const auto event = monitor_.next()) {
      if (event->kind != ZMQ_EVENT_DISCONNECTED) continue;
      const auto peer = peers_.find(event->fd);
      if (peer == peers_.end()) continue;
      departed_.push_back(std::move(peer->second));
      peers_.erase(peer);
    }
  }

  std::unique_ptr<PrivateDirectory> directory_;  // outlives the socket
  ZmqEnd end_;
  ConnectionMonitor monitor_;
  std::vector<std::string> endpoints_;
  std::unordered_map<int, PeerId> peers_;  ///< by the descriptor of their connection
  std::vector<PeerId> departed_;
};

class ZmqLink final : public Link {
 public:
  ZmqLink(const std::string& endpoint, const ZmqOptions& options)
      : end_(zmq::socket_type::dealer, options),
        monitor_(end_.context(), end_.socket()),
        connected_(has_scheme(endpoint, "inproc://")) {
    require_scheme(endpoint);
    end_.socket().set(zmq::sockopt::routing_id, "link-" + random_name());
    end_.socket().set(zmq::sockopt::reconnect_ivl, 20);
    end_.socket().set(zmq::sockopt::reconnect_ivl_max, 1000);
    try {
      end_.socket().connect(endpoint);
    } catch (const zmq::error_t& error) {
      throw_error(ErrorKind::kUsage, "cannot connect to {}: {}", endpoint, error.what());
    }
  }

  bool send(const Message& message, std::span<const std::byte> attachment) override {
    return end_.send(nullptr, message, attachment);
  }

  bool send_raw(std::span<const std::byte> bytes) override {
    return end_.send_frames(nullptr, bytes, {});
  }

  std::optional<Letter> receive(Clock::time_point deadline) override {
    return end_.receive(deadline, false, [](const PeerId&, zmq::message_t&) {});
  }

  uint64_t dropped() const override { return end_.dropped(); }

  bool connected() override {
    while (const auto event = monitor_.next()) {
      if (event->kind == ZMQ_EVENT_HANDSHAKE_SUCCEEDED) connected_ = true;
      if (event->kind == ZMQ_EVENT_DISCONNECTED) connected_ = false;
    }
    return connected_;
  }

 private:
  ZmqEnd end_;
  ConnectionMonitor monitor_;
  bool connected_;
};

}  // namespace

std::unique_ptr<Mailbox> make_zmq_mailbox(const std::vector<std::string>& endpoints,
                                          const ZmqOptions& options) {
  return std::make_unique<ZmqMailbox>(endpoints, options);
}

std::unique_ptr<Link> make_zmq_link(const std::string& endpoint, const ZmqOptions& options) {
  return std::make_unique<ZmqLink>(endpoint, options);
}

}  // namespace convoke
