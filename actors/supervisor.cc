#if defined(__SANITIZE_THREAD__) && !defined(__clang__)
// Asio's fences, which this sanitizer does not follow; what crosses threads here goes through
// asio::post, whose queue has a mutex.
#pragma GCC diagnostic ignored "-Wtsan"
#endif

#include "actors/supervisor.h"

#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <boost/asio/io_context.hpp>
#include <boost/asio/post.hpp>
#include <boost/asio/signal_set.hpp>
#include <boost/asio/steady_timer.hpp>
#include <csignal>
#include <cstdlib>
#include <map>
#include <thread>

#include "actors/zmq_transport.h"
#include "kernels/check.h"

namespace convoke {
namespace {

namespace asio = boost::asio;
using std::chrono::milliseconds;

constexpr milliseconds kTick{50};       // how late news may be noticed
constexpr milliseconds kQuickTick{10};  // while something is going on

void print_line(const std::string& line) {
  const std::string text = line + "\n";
  // One write, so that lines of several ranks do not mix.
  (void)!::write(STDERR_FILENO, text.data(), text.size());
}

std::vector<PeerIdentity> watched_by(int32_t rank, const std::vector<SupervisorPeer>& peers) {
  std::vector<PeerIdentity> watched;
  for (const SupervisorPeer& peer : peers) {
    const int32_t other = peer.identity.rank;
    if (other != rank && (rank == 0 || other == 0)) watched.push_back(peer.identity);
  }
  return watched;
}

}  // namespace

/// Everything but the constructor, start() and the posts happens on the thread.
class Supervisor::Impl {
 public:
  explicit Impl(SupervisorOptions options)
      : options_(std::move(options)),
        mailbox_(make_zmq_mailbox({options_.bind})),
        endpoint_(mailbox_->endpoints().front()) {
    if (!options_.print) options_.print = print_line;
  }

  ~Impl() { leave(); }

  const std::string& endpoint() const { return endpoint_; }

  void start(std::vector<SupervisorPeer> peers) {
    CONVOKE_CHECK(!thread_.joinable());
    peers_ = std::move(peers);
    watch_.emplace(watched_by(rank(), peers_), options_.watch, Clock::now());
    if (options_.handle_signals) {
      // Here, not on the thread: from now on a signal must not end the process.
      signals_.emplace(context_, SIGINT, SIGTERM);
      wait_for_signal();
    }
    thread_ = std::thread([this] { run(); });
  }

  void fail(const std::string& reason) {
    asio::post(context_, [this, reason] { on_own_failure(reason); });
  }

  void leave() {
    if (!thread_.joinable()) return;
    CONVOKE_CHECK(thread_.get_id() != std::this_thread::get_id());
    asio::post(context_, [this] { say_goodbye(); });
    thread_.join();
  }

 private:
  enum class State {
    kWatching,
    kElecting,  ///< rank 0 is dead: is a lower rank alive to say so?
    kGlowing,   ///< the message is out; on_death is due at `due_`
    kEnded
  };

  int32_t rank() const { return options_.self.rank; }

  void run() {
    if (rank() != 0 && !peers_.empty()) to_first_ = make_zmq_link(peers_[0].endpoint);
    tick();
    context_.run();
  }

  // --- time ---

  void tick() {
    const auto now = Clock::now();
    receive(now);
    note_connections(now);
    if (now >= next_heartbeat_) send_heartbeats(now);
    switch (state_) {
      case State::kWatching:
        watch(now);
        break;
      case State::kElecting:
        elect(now);
        break;
      case State::kGlowing:
        if (now >= due_) die();
        break;
      case State::kEnded:
        break;
    }
    if (state_ == State::kEnded) return;
    const bool quick = state_ != State::kWatching || signal_ != 0 || failure_;
    timer_.expires_after(quick ? kQuickTick : kTick);
    timer_.async_wait([this](const boost::system::error_code& error) {
      if (!error) tick();
    });
  }

  void watch(Clock::time_point now) {
    if (const auto death = watch_->check(now)) {
      on_death_of(death->peer, death->reason, now);
    } else if (failure_ && now >= failure_until_) {
      announce(*failure_, now);
    } else if (signal_ != 0 && now >= signal_until_ && !watch_->doubtful()) {
      const int signal = std::exchange(signal_, 0);
      if (rank() == 0 && peers_.size() > 1) {
        options_.print(fmt::format("convoke: {} received; no rank is known to have died; finishing",
                                   signal == SIGTERM ? "SIGTERM" : "SIGINT"));
      }
      call_back([&] {
        if (options_.on_shutdown) options_.on_shutdown(signal);
      });
    }
  }

  // --- messages ---

  void receive(Clock::time_point now) {
    while (auto letter = mailbox_->receive(Clock::time_point{})) {
      if (const auto* beat = std::get_if<Heartbeat>(&letter->message)) {
        ranks_[letter->from] = beat->rank;
        watch_->heard(beat->rank, now);
        // Who asks us whether we live is answered at once.
        if (rank() != 0) mailbox_->send(letter->from, heartbeat());
      } else if (const auto* fault = std::get_if<Fault>(&letter->message)) {
        on_fault(*fault, now);
      }
    }
    if (!to_first_) return;
    while (auto letter = to_first_->receive(Clock::time_point{})) {
      if (std::holds_alternative<Heartbeat>(letter->message)) {
        watch_->heard(0, now);
      } else if (const auto* fault = std::get_if<Fault>(&letter->message)) {
        on_fault(*fault, now);
      }
    }
  }

  void on_fault(const Fault& fault, Clock::time_point now) {
    if (fault.orderly) {
      watch_->left(fault.rank);
      return;
    }
    if (state_ != State::kWatching) return;
    if (rank() == 0) {
      on_failure(fault, now);
    } else {
      // Rank 0 has said it already.
      const PeerIdentity peer{fault.rank, fault.host, fault.role};
      end_soon(message_about(peer, fault.reason), now, milliseconds(0));
    }
  }

  void note_connections(Clock::time_point now) {
    for (const PeerId& id : mailbox_->departed()) {
      if (const auto known = ranks_.find(id); known != ranks_.end()) {
        watch_->connection_lost(known->second, now);
      }
    }
    if (!to_first_) return;
    const bool connected = to_first_->connected();
    if (was_connected_ && !connected) watch_->connection_lost(0, now);
    if (connected && !was_connected_) next_heartbeat_ = now;
    was_connected_ = connected;
  }

  Heartbeat heartbeat() {
    return {options_.self.rank, options_.self.host, options_.self.role, ++heartbeats_};
  }

  void send_heartbeats(Clock::time_point now) {
    next_heartbeat_ = now + options_.heartbeat;
    if (to_first_) to_first_->send(heartbeat());
    if (rank() != 0) return;
    for (const auto& [id, other] : ranks_) mailbox_->send(id, heartbeat());
  }

  // --- the end ---

  std::string message_about(const PeerIdentity& peer, const std::string& reason) const {
    return fmt::format("convoke: {} {}; the job ends", describe(peer), reason);
  }

  void on_death_of(const PeerIdentity& peer, const std::string& reason, Clock::time_point now) {
    if (rank() == 0) {
      announce({peer.rank, peer.host, peer.role, false, reason}, now);
      return;
    }
    message_ = message_about(peer, reason);
    state_ = State::kElecting;
    due_ = now + options_.election;
    for (const SupervisorPeer& lower : peers_) {
      if (lower.identity.rank == 0 || lower.identity.rank >= rank()) continue;
      if (lower.endpoint.empty()) continue;
      candidates_.push_back(make_zmq_link(lower.endpoint));
      candidates_.back()->send(heartbeat());
    }
    elect(now);
  }

  void elect(Clock::time_point now) {
    for (const auto& candidate : candidates_) {
      if (candidate->receive(Clock::time_point{})) {
        end_soon(message_, now, options_.afterglow);  // the lower one speaks
        return;
      }
    }
    if (!candidates_.empty() && now < due_) return;
    options_.print(message_);
    end_soon(message_, now, options_.afterglow);
  }

  /// Prints and tells all the others.
  void announce(const Fault& fault, Clock::time_point now) {
    const std::string message = message_about({fault.rank, fault.host, fault.role}, fault.reason);
    options_.print(message);
    for (const auto& [id, other] : ranks_) mailbox_->send(id, fault);
    end_soon(message, now, milliseconds(250));  // for the news to leave
  }

  void on_own_failure(const std::string& reason) {
    if (state_ != State::kWatching) return;
    const PeerIdentity& self = options_.self;
    const Fault fault{self.rank, self.host, self.role, false, "failed: " + reason};
    // Rank 0 prints and tells all, this one included. Should it not, we do.
    if (to_first_) to_first_->send(fault);
    on_failure(fault, Clock::now());
  }

  /// A rank fails most often because another one has died: that would be the better message, so
  /// it gets the time to arrive.
  void on_failure(const Fault& fault, Clock::time_point now) {
    if (failure_) return;
    failure_ = fault;
    failure_until_ = now + (rank() == 0 ? options_.failure_news : 3 * options_.failure_news);
  }

  void end_soon(const std::string& message, Clock::time_point now, milliseconds delay) {
    message_ = message;
    state_ = State::kGlowing;
    due_ = now + delay;
  }

  void die() {
    state_ = State::kEnded;
    call_back([this] {
      if (options_.on_death) options_.on_death(message_);
    });
  }

  template <typename F>
  void call_back(F f) {
    try {
      f();
    } catch (const std::exception& error) {
      spdlog::error("the supervisor's callback failed: {}", error.what());
    }
  }

  void say_goodbye() {
    timer_.cancel();
    if (signals_) signals_->cancel();
    if (state_ == State::kEnded) return;
    state_ = State::kEnded;
    const Fault goodbye{options_.self.rank, options_.self.host, options_.self.role, true, "done"};
    if (to_first_) to_first_->send(goodbye);
    for (const auto& [id, other] : ranks_) mailbox_->send(id, goodbye);
  }

  // --- signals ---

  void wait_for_signal() {
    signals_->async_wait([this](const boost::system::error_code& error, int signal) {
      if (error) return;
      // The second one means it; and so does the first when the end is already being made.
      if (++signals_seen_ > 1 || state_ == State::kEnded) std::_Exit(128 + signal);
      signal_ = signal;
      // Alone there is nobody whose death could be behind it.
      signal_until_ = Clock::now() + (watch_->watching() ? options_.signal_news : milliseconds(0));
      timer_.cancel();
      wait_for_signal();
      asio::post(context_, [this] { tick(); });
    });
  }

  SupervisorOptions options_;
  std::unique_ptr<Mailbox> mailbox_;
  std::string endpoint_;
  std::vector<SupervisorPeer> peers_;
  std::optional<PeerWatch> watch_;
  std::unique_ptr<Link> to_first_;                 ///< of ranks >= 1
  std::vector<std::unique_ptr<Link>> candidates_;  ///< to lower ranks, when rank 0 has died
  std::map<PeerId, int32_t> ranks_;                ///< who is behind the mailbox's peers
  bool was_connected_ = false;
  uint64_t heartbeats_ = 0;
  Clock::time_point next_heartbeat_;

  State state_ = State::kWatching;
  std::string message_;
  Clock::time_point due_;
  std::optional<Fault> failure_;  ///< reported, waiting for better news
  Clock::time_point failure_until_;
  int signal_ = 0;  ///< received, waiting for news
  int signals_seen_ = 0;
  Clock::time_point signal_until_;

  asio::io_context context_;
  asio::steady_timer timer_{context_};
  std::optional<asio::signal_set> signals_;
  std::thread thread_;
};

Supervisor::Supervisor(SupervisorOptions options)
    : impl_(std::make_unique<Impl>(std::move(options))) {}
Supervisor::~Supervisor() = default;
const std::string& Supervisor::endpoint() const {
  return impl_->endpoint();
}
void Supervisor::start(std::vector<SupervisorPeer> peers) {
  impl_->start(std::move(peers));
}
void Supervisor::fail(const std::string& reason) {
  impl_->fail(reason);
}
void Supervisor::leave() {
  impl_->leave();
}

}  // namespace convoke
