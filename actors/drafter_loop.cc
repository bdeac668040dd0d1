// The loop around DrafterActor, and the misbehaviour that tests may ask of it.
#include <spdlog/spdlog.h>

#include <array>
#include <charconv>
#include <cstdlib>
#include <thread>

#include "actors/drafter_actor.h"
#include "kernels/check.h"

namespace convoke {
namespace {

struct FaultName {
  const char* name;
  int DrafterFaults::*field;
};

constexpr std::array kFaultNames{
    FaultName{"die-at", &DrafterFaults::die_at},
    FaultName{"die-every", &DrafterFaults::die_every},
    FaultName{"garbage-every", &DrafterFaults::garbage_every},
    FaultName{"stale-every", &DrafterFaults::stale_every},
    FaultName{"oversize-every", &DrafterFaults::oversize_every},
    FaultName{"mute-every", &DrafterFaults::mute_every},
    FaultName{"delay-ms", &DrafterFaults::delay_ms},
};

void set_fault(DrafterFaults& faults, const std::string& item) {
  for (const FaultName& fault : kFaultNames) {
    const std::string prefix = std::string(fault.name) + "=";
    if (item.rfind(prefix, 0) != 0) continue;
    const char* first = item.data() + prefix.size();
    const char* last = item.data() + item.size();
    const auto [end, error] = std::from_chars(first, last, faults.*fault.field);
    if (error == std::errc() && end == last && faults.*fault.field >= 0) return;
  }
  throw_error(ErrorKind::kUsage, "drafter faults: cannot understand '{}'", item);
}

/// Sends answers, well or badly.
class Sender {
 public:
  Sender(Link& link, const DrafterFaults& faults) : link_(link), faults_(faults) {}

  void send(Message& message) {
    auto* trees = std::get_if<DraftTrees>(&message);
    if (trees && misbehave(*trees)) return;
    link_.send(message);  // a full queue or no connection: then the trees are late anyway
  }

 private:
  bool turn(int every) const { return every > 0 && answers_ % every == 0; }

  /// True if nothing is left to be sent.
  bool misbehave(DraftTrees& trees) {
    ++answers_;
    if (faults_.delay_ms > 0) {
      std::this_thread::sleep_for(std::chrono::milliseconds(faults_.delay_ms));
    }
    if (turn(faults_.mute_every)) return true;
    if (turn(faults_.garbage_every)) {
      std::vector<std::byte> garbage(size_t(64 + answers_ % 64));
      for (std::byte& b : garbage) b = std::byte(noise_ = noise_ * 1664525u + 1013904223u);
      link_.send_raw(garbage);
      return true;
    }
    if (turn(faults_.stale_every)) {
      for (SequenceTree& tree : trees.trees) tree.base_length = std::max(0, tree.base_length - 1);
    }
    if (turn(faults_.oversize_every)) {
      for (SequenceTree& tree : trees.trees) {
        while (tree.tree.size() < 1000) tree.tree.nodes.push_back({tree.tree.size() - 1, 0, false});
        for (DraftNode& node : tree.tree.nodes) node.probe = false;
      }
    }
    return false;
  }

  Link& link_;
  const DrafterFaults& faults_;
  int answers_ = 0;
  uint32_t noise_ = 1;
};

/// Waits for a message, then takes along what else is there.
void receive_some(Link& link, Clock::time_point deadline, std::vector<Letter>& letters) {
  constexpr size_t kMost = 64;
  letters.clear();
  auto letter = link.receive(deadline);
  while (letter) {
    letters.push_back(std::move(*letter));
    if (letters.size() == kMost) return;
    letter = link.receive(Clock::time_point{});
  }
}

}  // namespace

DrafterFaults DrafterFaults::parse(const std::string& text) {
  DrafterFaults faults;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = std::min(text.find(',', begin), text.size());
    set_fault(faults, text.substr(begin, end - begin));
    begin = end + 1;
  }
  return faults;
}

DrafterFaults DrafterFaults::from_environment() {
  const char* text = std::getenv("CONVOKE_TEST_DRAFTER_FAULTS");
  return parse(text ? text : "");
}

DrafterEnd run_drafter(Link& link, Drafter& drafter, const DrafterActorOptions& options,
                       const std::atomic<bool>& stop) {
  // Short enough for the stop flag, long enough to cost nothing.
  constexpr auto kNap = std::chrono::milliseconds(50);
  const DrafterFaults& faults = options.faults;
  const int die_at = faults.die_every >= 0      ? faults.die_every
                     : options.incarnation == 0 ? faults.die_at
                                                : -1;
  DrafterActor actor(drafter, options, Clock::now());
  Sender sender(link, faults);
  std::vector<Letter> letters;
  std::vector<Message> replies;
  int received = 0;
  bool busy = false;
  while (!stop.load(std::memory_order_relaxed) && !actor.finished()) {
    replies.clear();
    actor.tick(Clock::now(), link.connected(), replies);
    for (Message& reply : replies) sender.send(reply);
    // A drafter that drafts ahead looks for messages between two increments of its work.
    const Clock::time_point nap = std::min(actor.next_tick(), Clock::now() + kNap);
    receive_some(link, busy ? Clock::time_point{} : nap, letters);
    busy = letters.empty() ? actor.work_ahead() : true;
    received += int(letters.size());
    if (die_at >= 0 && received > die_at) return DrafterEnd::kDied;
    replies.clear();
    actor.handle(letters, Clock::now(), replies);
    for (Message& reply : replies) sender.send(reply);
  }
  const std::string reason = actor.finished() ? actor.reason() : "asked to stop";
  spdlog::debug("{}: ends: {}", options.role, reason);
  link.send(Fault{options.rank, options.host, options.role, true, reason});
  if (!actor.finished()) return DrafterEnd::kStopped;
  return actor.coordinator_gone() ? DrafterEnd::kCoordinatorGone : DrafterEnd::kShutdown;
}

}  // namespace convoke
