#include "actors/drafter_actor.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <thread>

#include "actors/local_transport.h"
#include "actors/zmq_transport.h"
#include "kernels/check.h"
#include "runtime/drafters/ngram.h"

namespace convoke {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

/// Guesses nothing; remembers what it was told and can be made to fail.
class Notebook final : public Drafter {
 public:
  std::string name() const override { return "notebook"; }
  void open(const DraftSequence& s) override {
    if (fail_open) throw Error(ErrorKind::kResource, "no room");
    tokens[s.id] = s.tokens;
  }
  void advance(const DraftVerdict& v) override {
    if (fail_advance) throw std::runtime_error("lost");
    auto& t = tokens.at(v.id);
    EXPECT_EQ(int32_t(t.size()), v.base_length);
    t.insert(t.end(), v.tokens.begin(), v.tokens.end());
  }
  void close(SequenceId id) override { EXPECT_EQ(tokens.erase(id), 1u); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids, const DraftLimits&) override {
    asked.insert(asked.end(), ids.begin(), ids.end());
    if (fail_propose) throw std::runtime_error("no idea");
    for (SequenceId id : ids) EXPECT_TRUE(tokens.contains(id));
    return std::vector<DraftTree>(ids.size(), proposal);
  }

  std::map<SequenceId, std::vector<int32_t>> tokens;
  std::vector<SequenceId> asked;
  DraftTree proposal{{{-1, 1, false}}};
  bool fail_open = false, fail_advance = false, fail_propose = false;
};

class ActorTest : public testing::Test {
 protected:
  ActorTest() { reset(); }
  void reset() {
    options.vocabulary = 100;
    now = Clock::time_point(seconds(1000));
    actor = std::make_unique<DrafterActor>(drafter, options, now);
  }

  template <typename... Messages>
  std::vector<Message> handle(Messages... messages) {
    std::vector<Letter> letters;
    (letters.push_back({"", Message(messages), {}}), ...);
    std::vector<Message> out;
    actor->handle(letters, now, out);
    return out;
  }
  std::vector<Message> tick(Clock::duration later = {}, bool connected = true) {
    now += later;
    std::vector<Message> out;
    actor->tick(now, connected, out);
    return out;
  }
  static SequenceOpened opened(SequenceId id, std::vector<int32_t> tokens) {
    const auto count = int32_t(tokens.size());
    return {{id, std::move(tokens), count, {}}};
  }
  static VerdictBatch verdicts(uint64_t step, std::vector<DraftVerdict> all,
                               std::vector<SequenceId> wanted) {
    return {step, std::move(all), std::move(wanted), {16, 8}};
  }
  template <typename T>
  static int count(const std::vector<Message>& messages) {
    return int(std::ranges::count_if(
        messages, [](const Message& m) { return std::holds_alternative<T>(m); }));
  }

  Notebook drafter;
  DrafterActorOptions options;
  Clock::time_point now;
  std::unique_ptr<DrafterActor> actor;
};

TEST_F(ActorTest, IntroducesItselfOnceAndBeats) {
  auto out = tick();
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(std::get<DrafterReady>(out[0]).method, "notebook");
  EXPECT_EQ(std::get<Heartbeat>(out[1]).count, 1u);
  EXPECT_TRUE(tick(milliseconds(499)).empty());
  out = tick(milliseconds(1));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(std::get<Heartbeat>(out[0]).count, 2u);
}

TEST_F(ActorTest, AnswersEveryBatchWithTreesForTheLengthAfterTheVerdict) {
  handle(opened(1, {1, 2, 3}), opened(2, {4}));
  const auto out = handle(verdicts(7, {{1, 3, {5, 6}, {}}}, {2, 1}));
  ASSERT_EQ(out.size(), 1u);
  const auto& trees = std::get<DraftTrees>(out[0]);
  EXPECT_EQ(trees.step, 7u);
  ASSERT_EQ(trees.trees.size(), 2u);
  EXPECT_EQ(trees.trees[0].id, 2u);
  EXPECT_EQ(trees.trees[0].base_length, 1);
  EXPECT_EQ(trees.trees[1].base_length, 5);
  EXPECT_EQ(trees.trees[1].tree, drafter.proposal);
  EXPECT_EQ(drafter.tokens[1], (std::vector<int32_t>{1, 2, 3, 5, 6}));
  const auto nothing = handle(verdicts(8, {}, {}));
  ASSERT_EQ(nothing.size(), 1u);
  EXPECT_TRUE(std::get<DraftTrees>(nothing[0]).trees.empty());
}

TEST_F(ActorTest, OnlyTheLastRequestForASequenceIsWorthATree) {
  handle(opened(1, {1}), opened(2, {1}));
  const auto out =
      handle(verdicts(1, {{1, 1, {2}, {}}}, {1, 2}), verdicts(2, {{1, 2, {3}, {}}}, {1}));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_EQ(drafter.asked, (std::vector<SequenceId>{2, 1}));
  EXPECT_EQ(std::get<DraftTrees>(out[0]).trees.size(), 1u);
  EXPECT_EQ(std::get<DraftTrees>(out[1]).trees.at(0).base_length, 3);
}

TEST_F(ActorTest, AnUnknownSequenceIsAskedForByAnIntroduction) {
  tick();
  now += seconds(1);
  auto out = handle(verdicts(1, {{9, 3, {1}, {}}}, {9}));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_TRUE(std::get<DraftTrees>(out[0]).trees.empty());
  EXPECT_TRUE(std::holds_alternative<DrafterReady>(out[1]));
  // Not again before the answer can have come; later again, with growing pauses.
  EXPECT_EQ(count<DrafterReady>(handle(verdicts(2, {}, {9}))), 0);
  now += seconds(1);
  EXPECT_EQ(count<DrafterReady>(handle(verdicts(3, {}, {9}))), 1);
  handle(opened(9, {1, 2, 3, 1}));
  out = handle(verdicts(4, {{9, 4, {5}, {}}}, {9}));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_EQ(std::get<DraftTrees>(out[0]).trees.at(0).base_length, 5);
}

TEST_F(ActorTest, AVerdictThatIsNotWantedForAnUnknownSequenceIsIgnored) {
  tick();
  now += seconds(1);
  EXPECT_EQ(count<DrafterReady>(handle(verdicts(1, {{9, 3, {1}, {}}}, {}))), 0);
  handle(SequenceClosed{9});
}

TEST_F(ActorTest, AGapMakesItForgetTheSequenceAndAsk) {
  tick();
  now += seconds(1);
  handle(opened(1, {1, 2}));
  const auto out = handle(verdicts(1, {{1, 4, {7}, {}}}, {1}));
  ASSERT_EQ(out.size(), 2u);
  EXPECT_TRUE(std::get<DraftTrees>(out[0]).trees.empty());
  EXPECT_TRUE(std::holds_alternative<DrafterReady>(out[1]));
  EXPECT_FALSE(drafter.tokens.contains(1));
}

TEST_F(ActorTest, RepeatedAndOverlappingVerdicts) {
  tick();
  now += seconds(1);
  handle(opened(1, {1, 2}));
  const auto batch = verdicts(1, {{1, 2, {3, 4}, {}}}, {1});
  handle(batch);
  auto out = handle(batch);  // twice
  EXPECT_EQ(std::get<DraftTrees>(out.at(0)).trees.at(0).base_length, 4);
  EXPECT_EQ(drafter.tokens[1], (std::vector<int32_t>{1, 2, 3, 4}));
  out = handle(verdicts(2, {{1, 3, {9, 9, 9}, {}}}, {1}));  // overlaps: not to be trusted
  EXPECT_EQ(count<DrafterReady>(out), 1);
  EXPECT_FALSE(drafter.tokens.contains(1));
}

TEST_F(ActorTest, OpeningAgainReplacesWhatWasKnown) {
  handle(opened(1, {1, 2}));
  handle(opened(1, {1, 2, 3, 4, 5}));
  EXPECT_EQ(drafter.tokens[1].size(), 5u);
  handle(SequenceClosed{1}, SequenceClosed{1});
  EXPECT_TRUE(drafter.tokens.empty());
}

TEST_F(ActorTest, AMethodThatFailsCostsTreesOnly) {
  tick();
  now += seconds(1);
  drafter.fail_open = true;
  handle(opened(1, {1}));
  drafter.fail_open = false;
  auto out = handle(verdicts(1, {{1, 1, {2}, {}}}, {1}));
  ASSERT_EQ(out.size(), 1u) << "asking again would not help";
  EXPECT_TRUE(std::get<DraftTrees>(out[0]).trees.empty());
  handle(opened(2, {1}));
  drafter.fail_propose = true;
  out = handle(verdicts(2, {}, {2}));
  EXPECT_TRUE(std::get<DraftTrees>(out.at(0)).trees.empty());
  drafter.fail_propose = false;
  drafter.fail_advance = true;
  out = handle(verdicts(3, {{2, 1, {2}, {}}}, {2}));
  ASSERT_EQ(out.size(), 1u);
  EXPECT_TRUE(std::get<DraftTrees>(out[0]).trees.empty());
}

TEST_F(ActorTest, WrongAndOversizeProposalsDoNotLeave) {
  handle(opened(1, {1}));
  drafter.proposal = {{{-1, 100, false}}};  // outside the vocabulary
  auto out = handle(verdicts(1, {}, {1}));
  EXPECT_TRUE(std::get<DraftTrees>(out.at(0)).trees.at(0).tree.empty());
  drafter.proposal.nodes.assign(40, {-1, 5, false});
  out = handle(verdicts(2, {}, {1}));
  EXPECT_EQ(std::get<DraftTrees>(out.at(0)).trees.at(0).tree.size(), 16);
}

TEST_F(ActorTest, WhatADrafterNeverReceivesIsIgnored) {
  EXPECT_TRUE(handle(Heartbeat{}, StepPlan{}, DraftTrees{}, DrafterReady{}, SubmitRequest{},
                     CancelRequest{}, RequestOutput{}, Fault{})
                  .empty());
}

TEST_F(ActorTest, LeavesWhenToldSo) {
  EXPECT_TRUE(handle(Shutdown{"enough"}, verdicts(1, {}, {})).empty());
  EXPECT_TRUE(actor->finished());
  EXPECT_EQ(actor->reason(), "enough");
  EXPECT_FALSE(actor->coordinator_gone());
  EXPECT_TRUE(tick(seconds(100), false).empty());
}

TEST_F(ActorTest, LeavesWhenTheCoordinatorIsGoneForLong) {
  tick(seconds(0), true);
  tick(seconds(29), false);
  EXPECT_FALSE(actor->finished());
  tick(seconds(1), true);
  tick(seconds(29), false);
  EXPECT_FALSE(actor->finished());
  tick(seconds(1), false);
  EXPECT_TRUE(actor->coordinator_gone());
  reset();  // an idle coordinator that can be reached is not gone
  for (int i = 0; i < 1000; ++i) tick(seconds(1), true);
  EXPECT_FALSE(actor->finished());
}

TEST_F(ActorTest, IntroducesItselfAgainAfterAReconnect) {
  tick();
  EXPECT_EQ(count<DrafterReady>(tick(seconds(1), false)), 0);
  EXPECT_EQ(count<DrafterReady>(tick(seconds(1), true)), 1);
  EXPECT_EQ(count<DrafterReady>(tick(seconds(1), true)), 0);
}

TEST_F(ActorTest, IntroducesItselfAgainWhenNothingIsHeardOfOpenSequences) {
  tick();
  handle(opened(1, {1}));
  EXPECT_EQ(count<DrafterReady>(tick(milliseconds(4999))), 0);
  EXPECT_EQ(count<DrafterReady>(tick(milliseconds(1))), 1);
  EXPECT_EQ(count<DrafterReady>(tick(milliseconds(9999))), 0);
  EXPECT_EQ(count<DrafterReady>(tick(milliseconds(1))), 1);
}

// --- over a transport, with the loop ------------------------------------------------------------

/// Plays the coordinator for one sequence that follows a known text; counts what came back right.
class SmallCoordinator {
 public:
  SmallCoordinator(Mailbox& mailbox, std::vector<int32_t> text)
      : mailbox_(mailbox), text_(std::move(text)) {}

  /// One token per step; a tree is waited for shortly and judged.
  void run(int steps, milliseconds patience) {
    for (int step = 0; step < steps; ++step) {
      const auto base = int32_t(length_);
      ++length_;
      if (!peer_.empty()) {
        mailbox_.send(
            peer_,
            VerdictBatch{uint64_t(step + 1), {{1, base, {text_[size_t(base)]}, {}}}, {1}, {8, 4}});
      }
      wait_for(uint64_t(step + 1), Clock::now() + patience);
      std::this_thread::sleep_for(milliseconds(3));  // a step takes its time
    }
  }
  void shut_down() { mailbox_.send(peer_, Shutdown{"done"}); }

  int fresh = 0, stale = 0, oversize = 0, introductions = 0;
  uint32_t incarnation = 0;
  bool goodbye = false;

  void wait_for(uint64_t step, Clock::time_point deadline) {
    while (auto letter = mailbox_.receive(deadline)) {
      if (const auto* ready = std::get_if<DrafterReady>(&letter->message)) {
        ++introductions;
        incarnation = ready->incarnation;
        peer_ = letter->from;
        mailbox_.send(peer_, SequenceOpened{{1, {text_.begin(), text_.begin() + length_}, 1, {}}});
        if (step == 0) return;
      } else if (const auto* trees = std::get_if<DraftTrees>(&letter->message)) {
        for (const SequenceTree& tree : trees->trees) {
          (tree.tree.size() > 8 ? oversize : tree.base_length == length_ ? fresh : stale) += 1;
        }
        if (trees->step == step) return;
      } else if (const auto* fault = std::get_if<Fault>(&letter->message)) {
        goodbye = fault->orderly;
      }
    }
  }

 private:
  Mailbox& mailbox_;
  std::vector<int32_t> text_;
  ptrdiff_t length_ = 2;
  PeerId peer_;
};

std::vector<int32_t> loop_text() {
  std::vector<int32_t> text;
  for (int i = 0; i < 400; ++i) text.push_back(i % 7);
  return text;
}

struct Outcome {
  DrafterEnd end;
  int fresh, stale, oversize, introductions;
  bool goodbye;
  uint64_t malformed;
};

Outcome play(DrafterFaults faults, std::vector<LocalFault> to_mailbox = {},
             std::vector<LocalFault> to_link = {}, milliseconds patience = milliseconds(200)) {
  LocalNetwork network;
  const auto mailbox = network.make_mailbox("coordinator");
  const auto link = network.make_link("coordinator", std::move(to_mailbox), std::move(to_link));
  NgramDrafter drafter({});
  DrafterActorOptions options;
  options.vocabulary = 7;
  options.faults = faults;
  options.reintroduce = milliseconds(100);
  std::atomic<bool> stop{false};
  Outcome outcome{};
  std::thread thread([&] { outcome.end = run_drafter(*link, drafter, options, stop); });
  SmallCoordinator coordinator(*mailbox, loop_text());
  coordinator.wait_for(0, Clock::now() + seconds(5));
  coordinator.run(60, patience);
  coordinator.shut_down();
  coordinator.wait_for(~uint64_t{0}, Clock::now() + milliseconds(100));
  stop.store(true);
  thread.join();
  return {outcome.end,          coordinator.fresh,         coordinator.stale,
          coordinator.oversize, coordinator.introductions, coordinator.goodbye,
          mailbox->dropped()};
}

TEST(DrafterLoop, AnswersInTimeAndLeavesInOrder) {
  const Outcome o = play({});
  EXPECT_EQ(o.end, DrafterEnd::kShutdown);
  EXPECT_GE(o.fresh, 55);
  EXPECT_EQ(o.introductions, 1);
  EXPECT_TRUE(o.goodbye);
}

TEST(DrafterLoop, MisbehavesAsAskedFor) {
  const auto play_badly = [](const char* faults) {
    return play(DrafterFaults::parse(faults), {}, {}, milliseconds(30));
  };
  EXPECT_GE(play_badly("garbage-every=2").malformed, 25u);
  EXPECT_GE(play_badly("stale-every=2").stale, 25);
  EXPECT_GE(play_badly("oversize-every=3").oversize, 15);
  const Outcome mute = play_badly("mute-every=2");
  EXPECT_LE(mute.fresh, 35);
  EXPECT_GE(mute.fresh, 10);
  const Outcome dead = play_badly("die-at=5");
  EXPECT_EQ(dead.end, DrafterEnd::kDied);
  EXPECT_FALSE(dead.goodbye);
  EXPECT_LE(dead.fresh, 5);
}

TEST(DrafterLoop, RecoversFromEveryFaultOfTheWireAtEveryMessage) {
  using Kind = LocalFault::Kind;
  for (const Kind kind : {Kind::kDrop, Kind::kDuplicate, Kind::kDelay, Kind::kCorrupt}) {
    for (uint64_t index : {0, 1, 2, 5}) {
      // From the coordinator, whose messages carry the state.
      const Outcome o = play({}, {}, {{kind, index, 2}});
      EXPECT_EQ(o.end, DrafterEnd::kShutdown);
      EXPECT_GE(o.fresh, 40) << "fault " << int(kind) << " at " << index;
    }
  }
}

TEST(DrafterFaults, TextIsChecked) {
  const auto faults = DrafterFaults::parse("die-at=3,delay-ms=20");
  EXPECT_EQ(faults.die_at, 3);
  EXPECT_EQ(faults.delay_ms, 20);
  for (const char* bad : {"die-at", "die-at=x", "die-at=-1", "explode=1", "die-at=1,,"}) {
    EXPECT_THROW(DrafterFaults::parse(bad), Error) << bad;
  }
}

TEST(DrafterLoop, StopsOnTheFlagAndSaysGoodbye) {
  const auto mailbox = make_zmq_mailbox({"inproc://stop-test"});
  NgramDrafter drafter({});
  std::atomic<bool> stop{false};
  DrafterEnd end{};
  std::thread thread([&] {
    const auto link = make_zmq_link("inproc://stop-test");
    end = run_drafter(*link, drafter, {}, stop);
  });
  EXPECT_TRUE(mailbox->receive(Clock::now() + seconds(10)));
  stop.store(true);
  thread.join();
  EXPECT_EQ(end, DrafterEnd::kStopped);
  bool goodbye = false;
  while (const auto letter = mailbox->receive(Clock::now() + milliseconds(100))) {
    const auto* fault = std::get_if<Fault>(&letter->message);
    goodbye |= fault && fault->orderly;
  }
  EXPECT_TRUE(goodbye);
}

}  // namespace
}  // namespace convoke
