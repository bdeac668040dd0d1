#include "actors/coordinator.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "actors/local_transport.h"
#include "kernels/check.h"
#include "tests/support/fake_target.h"

namespace convoke {
namespace {

using testing::FakeTarget;

constexpr int kVocabulary = 40;

class FakeRunner : public StepRunner {
 public:
  explicit FakeRunner(FakeTarget& target) : target_(target) {}
  void run(const StepPlan& plan, StepResult& result) override {
    if (steps == fail_at) throw Error(ErrorKind::kPeer, "shard 1 on host b did not come");
    target_.execute(plan, result);
    result.compute_seconds = 1e-3;
    ++steps;
  }
  int steps = 0;
  int fail_at = -1;

 private:
  FakeTarget& target_;
};

// A drafter that answers by hand, so that a test decides what it says and when.
class ScriptedDrafter {
 public:
  using Propose = std::function<DraftTree(const std::vector<int32_t>& tokens, uint64_t seed)>;
  ScriptedDrafter(std::unique_ptr<Link> link, Propose propose)
      : link_(std::move(link)), propose_(std::move(propose)) {}

  void ready() { link_->send(DrafterReady{"scripted", ++incarnation_}); }
  Link& link() { return *link_; }

  /// Handles everything that has arrived. Sequences it lost track of get no tree.
  void pump() {
    while (auto letter = link_->receive(Clock::now())) {
      if (auto* opened = std::get_if<SequenceOpened>(&letter->message)) {
        sequences_[opened->sequence.id] = opened->sequence;
        ++opened_;
      } else if (auto* closed = std::get_if<SequenceClosed>(&letter->message)) {
        sequences_.erase(closed->id);
      } else if (auto* batch = std::get_if<VerdictBatch>(&letter->message)) {
        answer(*batch);
      }
    }
  }
  size_t live() const { return sequences_.size(); }
  int opened() const { return opened_; }
  bool silent = false;
  int base_shift = 0;  ///< makes every tree stale

 private:
  void answer(const VerdictBatch& batch) {
    for (const DraftVerdict& v : batch.verdicts) {
      const auto found = sequences_.find(v.id);
      if (found == sequences_.end()) continue;
      if (int32_t(found->second.tokens.size()) != v.base_length) {
        sequences_.erase(found);  // a verdict was lost
        continue;
      }
      auto& tokens = found->second.tokens;
      tokens.insert(tokens.end(), v.tokens.begin(), v.tokens.end());
    }
    DraftTrees trees;
    trees.step = batch.step;
    for (SequenceId id : batch.wanted) {
      const auto found = sequences_.find(id);
      if (found == sequences_.end()) continue;
      const DraftSequence& s = found->second;
      trees.trees.push_back(
          {id, int32_t(s.tokens.size()) + base_shift, propose_(s.tokens, s.sampling.seed)});
    }
    if (!silent) link_->send(trees);
  }

  std::unique_ptr<Link> link_;
  Propose propose_;
  std::map<SequenceId, DraftSequence> sequences_;
  uint32_t incarnation_ = 0;
  int opened_ = 0;
};

struct Client {
  std::unique_ptr<Link> link;
  std::map<uint64_t, std::vector<int32_t>> tokens;
  std::map<uint64_t, RequestOutput> ended;
  std::string fault;

  void pump() {
    while (auto letter = link->receive(Clock::now())) {
      if (auto* fault_message = std::get_if<Fault>(&letter->message)) fault = fault_message->reason;
      auto* output = std::get_if<RequestOutput>(&letter->message);
      if (output == nullptr) continue;
      EXPECT_FALSE(ended.contains(output->request)) << "output after the end";
      for (const OutputToken& t : output->tokens) tokens[output->request].push_back(t.token);
      if (output->finish != FinishReason::kNone) ended[output->request] = *output;
    }
  }
};

class CoordinatorTest : public ::testing::Test {
 protected:
  CoordinatorTest() : target(kVocabulary), runner(target) {
    options.scheduler = {.max_sequences = 4,
                         .max_rows = 64,
                         .prompt_chunk = 16,
                         .kv_blocks = 64,
                         .max_model_len = 128,
                         .vocabulary = kVocabulary};
    options.draft_deadline = std::chrono::milliseconds(1);
  }

  /// A fresh coordinator, with nothing left over from one before.
  void start() {
    target = FakeTarget(kVocabulary);
    coordinator.reset();
    name = "coordinator-" + std::to_string(++starts);
    mailbox = network.make_mailbox(name);
    coordinator = std::make_unique<Coordinator>(*mailbox, runner, options, signals);
    client.link = network.make_link(name);
  }
  ScriptedDrafter make_drafter(ScriptedDrafter::Propose propose,
                               std::vector<LocalFault> to_mailbox = {},
                               std::vector<LocalFault> to_link = {}) {
    return {network.make_link(name, std::move(to_mailbox), std::move(to_link)), std::move(propose)};
  }
  /// Knows the truth for `depth` tokens, and one wrong sibling each.
  ScriptedDrafter::Propose oracle(int depth) {
    return [this, depth](const std::vector<int32_t>& tokens, uint64_t seed) {
      DraftTree tree;
      std::vector<int32_t> prefix = tokens;
      int32_t parent = -1;
      for (int d = 0; d < depth; ++d) {
        const int32_t truth = target.next(prefix, seed);
        tree.nodes.push_back({parent, (truth + 1) % kVocabulary, false});
        tree.nodes.push_back({parent, truth, false});
        parent = tree.size() - 1;
        prefix.push_back(truth);
      }
      return tree;
    };
  }
  void submit(uint64_t id, std::vector<int32_t> prompt, int max_tokens = 20) {
    SubmitRequest request{id, std::move(prompt), {}};
    request.sampling.seed = id * 31;
    request.sampling.max_tokens = max_tokens;
    requests[id] = request;
    client.link->send(request);
  }
  /// Turns until every request has ended.
  void finish(ScriptedDrafter* drafter = nullptr, int limit = 2000) {
    for (int i = 0; i < limit && client.ended.size() < requests.size(); ++i) {
      if (drafter != nullptr) drafter->pump();
      coordinator->turn(Clock::now());
      client.pump();
    }
    ASSERT_EQ(client.ended.size(), requests.size());
  }
  void expect_plain_tokens() {
    for (const auto& [id, request] : requests) {
      EXPECT_EQ(client.tokens[id],
                target.generate(request.prompt, request.sampling.max_tokens, request.sampling.seed))
          << "request " << id;
    }
  }

  LocalNetwork network;
  std::string name;
  int starts = 0;
  FakeTarget target;
  FakeRunner runner;
  std::unique_ptr<Mailbox> mailbox;
  CoordinatorOptions options;
  CoordinatorSignals signals;
  std::unique_ptr<Coordinator> coordinator;
  Client client;
  std::map<uint64_t, SubmitRequest> requests;
};

TEST_F(CoordinatorTest, PlainDecodingNeedsNoDrafter) {
  start();
  for (uint64_t id = 1; id <= 7; ++id) submit(id, std::vector<int32_t>(id * 5, int32_t(id)));
  finish();
  expect_plain_tokens();
  const RequestStats& stats = client.ended.at(3).stats;
  EXPECT_EQ(stats.prompt_tokens, 15);
  EXPECT_EQ(stats.output_tokens, 20);
  EXPECT_EQ(stats.decode_steps, 19);
  EXPECT_EQ(stats.drafts, 0);
}

TEST_F(CoordinatorTest, AGoodDrafterSavesStepsAndChangesNothing) {
  start();
  ScriptedDrafter drafter = make_drafter(oracle(3));
  drafter.ready();
  submit(1, {1, 2, 3}, 21);
  finish(&drafter);
  expect_plain_tokens();
  const RequestStats& stats = client.ended.at(1).stats;
  // One token from the prompt, then four a step: 5 steps.
  EXPECT_EQ(stats.decode_steps, 5);
  EXPECT_EQ(stats.drafts, 5);
  EXPECT_EQ(stats.draft_tokens, 30);
  EXPECT_EQ(stats.accepted_tokens, 15);
  EXPECT_EQ(stats.accepted_by_depth, (std::vector<int64_t>{5, 5, 5}));
  EXPECT_EQ(stats.late_drafts, 0);
  drafter.pump();
  EXPECT_EQ(drafter.live(), 0u);
}

TEST_F(CoordinatorTest, StaleAndBrokenTreesAreDropped) {
  for (int kind = 0; kind < 5; ++kind) {
    client = {};
    requests.clear();
    start();
    ScriptedDrafter drafter = make_drafter([&](const std::vector<int32_t>& tokens, uint64_t seed) {
      DraftTree tree = oracle(2)(tokens, seed);
      if (kind == 1) tree.nodes.assign(500, {-1, 3, false});  // more than any step has rows
      if (kind == 2) tree.nodes[0].token = kVocabulary;       // outside the vocabulary
      if (kind == 3) tree.nodes = {{-1, -1, true}};           // no such look-ahead embedding
      if (kind == 4) tree.nodes.assign(60, {-1, 3, true});    // probes only
      return tree;
    });
    drafter.base_shift = kind == 0 ? 1 : 0;
    drafter.ready();
    submit(1, {4, 5}, 12);
    finish(&drafter);
    expect_plain_tokens();
  }
}

TEST_F(CoordinatorTest, EveryLostDelayedDoubledOrCorruptedMessageCostsOnlySpeed) {
  using Kind = LocalFault::Kind;
  for (Kind kind : {Kind::kDrop, Kind::kDuplicate, Kind::kDelay, Kind::kCorrupt, Kind::kTruncate}) {
    for (uint64_t index = 0; index < 24; ++index) {
      for (bool to_drafter : {false, true}) {
        client = {};
        requests.clear();
        start();
        const std::vector<LocalFault> faults{{kind, index, 3}};
        ScriptedDrafter drafter =
            to_drafter ? make_drafter(oracle(2), {}, faults) : make_drafter(oracle(2), faults);
        drafter.ready();
        submit(1, {4, 5}, 25);
        submit(2, {6}, 25);
        finish(&drafter);
        expect_plain_tokens();
      }
    }
  }
}

TEST_F(CoordinatorTest, ASilentDrafterIsNotWaitedForAndComesBack) {
  start();
  ScriptedDrafter drafter = make_drafter(oracle(3));
  drafter.ready();
  drafter.silent = true;
  submit(1, {1, 2}, 60);
  for (int i = 0; i < 20; ++i) {
    drafter.pump();
    coordinator->turn(Clock::now());
  }
  drafter.silent = false;
  drafter.ready();
  finish(&drafter);
  expect_plain_tokens();
  const RequestStats& stats = client.ended.at(1).stats;
  // Three steps, then it was no longer waited for; and one when it came back, since the script only
  // answers between steps.
  EXPECT_EQ(stats.late_drafts, 4);
  EXPECT_GT(stats.accepted_tokens, 15);
}

/// Exports a feature for every row: its number in the pass, or its name.
class FeatureRunner : public StepRunner {
 public:
  explicit FeatureRunner(StepRunner& runner) : runner_(runner) {}
  void run(const StepPlan& plan, StepResult& result) override {
    runner_.run(plan, result);
    const int rows = plan.rows();
    names_.clear(), values_.clear();
    for (int r = 0; r < rows; ++r) {
      names_.push_back(next_name + r);
      values_.push_back(float(100 * passes + r));
    }
    next_name += std::max(rows, names_per_pass);
    result.features = passes >= named_from
                          ? TensorView::matrix(names_.data(), kFeatureNames, rows, 1)
                          : TensorView::matrix(values_.data(), DType::kFloat32, rows, 1);
    passes += rows > 0 ? 1 : 0;
  }
  int passes = 0, named_from = 0, names_per_pass = 0;
  int64_t next_name = 1000;

 private:
  StepRunner& runner_;
  std::vector<int64_t> names_;
  std::vector<float> values_;
};

/// The batches that come while a prompt of 100 tokens is computed, in seven passes; only after the
/// last of them is a tree wanted.
struct FeatureBatches {
  std::vector<VerdictBatch> batches;
  std::vector<std::vector<std::byte>> attachments;
};

class CoordinatorFeatures : public CoordinatorTest {
 protected:
  FeatureBatches run(FeatureRunner& features) {
    target = FakeTarget(kVocabulary);
    coordinator.reset();
    name = "features-" + std::to_string(++starts);
    mailbox = network.make_mailbox(name);
    coordinator = std::make_unique<Coordinator>(*mailbox, features, options, signals);
    client.link = network.make_link(name);
    const auto drafter = network.make_link(name);
    drafter->send(DrafterReady{"by hand", 1});
    SubmitRequest request{.request = uint64_t(starts), .prompt = {}, .sampling = {}};
    for (int i = 0; i < 100; ++i) request.prompt.push_back(i % kVocabulary);
    request.sampling.max_tokens = 2;
    request.sampling.ignore_eos = true;
    client.link->send(request);
    FeatureBatches found;
    for (int i = 0; i < 12; ++i) {
      coordinator->turn(Clock::now());
      while (auto letter = drafter->receive(Clock::now())) {
        auto* const batch = std::get_if<VerdictBatch>(&letter->message);
        if (batch == nullptr || batch->verdicts.empty()) continue;
        found.batches.push_back(*batch);
        found.attachments.push_back(letter->attachment);
      }
    }
    return found;
  }
  template <typename T>
  static std::vector<T> values(const std::vector<std::byte>& bytes) {
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }
};

TEST_F(CoordinatorFeatures, RowsWaitUntilATreeIsWanted) {
  FeatureRunner features(runner);
  features.named_from = 1000;
  const FeatureBatches found = run(features);
  ASSERT_EQ(found.batches.size(), 1u);
  EXPECT_EQ(found.batches[0].verdicts.size(), 7u);
  EXPECT_EQ(found.batches[0].feature_dtype, DType::kFloat32);
  const auto rows = values<float>(found.attachments[0]);
  ASSERT_EQ(rows.size(), 100u);
  for (size_t i = 0; i < rows.size(); ++i) EXPECT_EQ(rows[i], float(100 * (i / 16) + i % 16));
}

TEST_F(CoordinatorFeatures, NamesWaitOnlyWhileTheirRowsStay) {
  FeatureRunner few(runner);
  const FeatureBatches together = run(few);
  ASSERT_EQ(together.batches.size(), 1u);
  EXPECT_EQ(together.batches[0].feature_dtype, kFeatureNames);
  EXPECT_EQ(together.batches[0].feature_width, 1);
  const auto names = values<int64_t>(together.attachments[0]);
  ASSERT_EQ(names.size(), 100u);
  for (size_t i = 0; i < names.size(); ++i) EXPECT_EQ(names[i], 1000 + int64_t(i));

  FeatureRunner many(runner);  // rows of others, too
  many.names_per_pass = 100;
  const FeatureBatches apart = run(many);
  ASSERT_EQ(apart.batches.size(), 2u);
  EXPECT_EQ(apart.batches[0].verdicts.size(), 4u);
  EXPECT_EQ(values<int64_t>(apart.attachments[0]).size(), 64u);
  EXPECT_EQ(apart.batches[1].verdicts.size(), 3u);
  EXPECT_EQ(values<int64_t>(apart.attachments[1]).front(), 1400);
  EXPECT_EQ(values<int64_t>(apart.attachments[1]).size(), 36u);
}

TEST_F(CoordinatorFeatures, RowsAndNamesDoNotShareAMessage) {
  FeatureRunner features(runner);
  features.named_from = 3;
  const FeatureBatches found = run(features);
  ASSERT_EQ(found.batches.size(), 2u);
  EXPECT_EQ(found.batches[0].verdicts.size(), 3u);
  EXPECT_EQ(found.batches[0].feature_dtype, DType::kFloat32);
  EXPECT_EQ(values<float>(found.attachments[0]).back(), 215.0f);
  EXPECT_TRUE(found.batches[0].wanted.empty());
  EXPECT_EQ(found.batches[1].verdicts.size(), 4u);
  EXPECT_EQ(found.batches[1].feature_dtype, kFeatureNames);
  EXPECT_EQ(values<int64_t>(found.attachments[1]).size(), 52u);
}

TEST_F(CoordinatorTest, ARestartedDrafterIsToldOfLiveSequences) {
  start();
  submit(1, {1, 2}, 40);
  for (int i = 0; i < 5; ++i) coordinator->turn(Clock::now());
  ScriptedDrafter first = make_drafter(oracle(1));
  first.ready();
  for (int i = 0; i < 5; ++i) {
    first.pump();
    coordinator->turn(Clock::now());
  }
  first.pump();
  EXPECT_EQ(first.live(), 1u);
  ScriptedDrafter second = make_drafter(oracle(3));  // the first is gone without a word
  second.ready();
  finish(&second);
  expect_plain_tokens();
  EXPECT_GE(second.opened(), 1);
  EXPECT_GT(client.ended.at(1).stats.accepted_tokens, 10);
}

TEST_F(CoordinatorTest, AnOrderlyGoodbyeOfTheDrafterIsHeard) {
  start();
  ScriptedDrafter drafter = make_drafter(oracle(1));
  drafter.ready();
  coordinator->turn(Clock::now());
  EXPECT_TRUE(signals.drafter_connected.load());
  drafter.link().send(Fault{.orderly = true});
  coordinator->turn(Clock::now());
  EXPECT_FALSE(signals.drafter_connected.load());
  submit(1, {1});
  finish();
  expect_plain_tokens();
}

TEST_F(CoordinatorTest, CancelEndsARequestOnce) {
  for (int when = 0; when < 8; ++when) {
    client = {};
    requests.clear();
    start();
    submit(1, {1, 2, 3}, 5);
    submit(2, {7}, 9);
    for (int i = 0; i < when; ++i) coordinator->turn(Clock::now());
    client.link->send(CancelRequest{1});
    finish();
    const FinishReason reason = client.ended.at(1).finish;
    EXPECT_TRUE(reason == FinishReason::kCancelled || reason == FinishReason::kLength);
    EXPECT_EQ(client.tokens[2], target.generate({7}, 9, 62));
    client.link->send(CancelRequest{1});
    client.link->send(CancelRequest{99});
    coordinator->turn(Clock::now());
    client.pump();  // EXPECTs that nothing comes after the end
  }
}

TEST_F(CoordinatorTest, ARequestThatCannotRunEndsWithItsReason) {
  start();
  submit(1, {});
  submit(2, {kVocabulary});
  submit(3, std::vector<int32_t>(128, 1));
  submit(4, {1, 2});
  finish();
  EXPECT_EQ(client.ended.at(1).finish, FinishReason::kError);
  EXPECT_NE(client.ended.at(1).error.find("empty"), std::string::npos);
  EXPECT_EQ(client.ended.at(2).finish, FinishReason::kError);
  EXPECT_EQ(client.ended.at(3).finish, FinishReason::kError);
  EXPECT_EQ(client.ended.at(4).finish, FinishReason::kLength);
}

TEST_F(CoordinatorTest, ClientsMayUseTheSameIds) {
  start();
  Client other;
  other.link = network.make_link(name);
  submit(1, {1, 2}, 10);
  SubmitRequest request{1, {3}, {}};
  request.sampling.max_tokens = 6;
  other.link->send(request);
  finish();
  for (int i = 0; i < 20; ++i) coordinator->turn(Clock::now());
  other.pump();
  expect_plain_tokens();
  EXPECT_EQ(other.tokens[1], target.generate({3}, 6, 0));
}

TEST_F(CoordinatorTest, AFailedShardReachesTheFrontEnds) {
  runner.fail_at = 3;
  start();
  submit(1, {1, 2}, 10);
  EXPECT_THROW(coordinator->run(), Error);
  client.pump();
  EXPECT_NE(client.fault.find("shard 1 on host b"), std::string::npos);
}

TEST_F(CoordinatorTest, ShutdownCancelsWhatIsLive) {
  start();
  submit(1, {1, 2}, 100);
  for (int i = 0; i < 3; ++i) coordinator->turn(Clock::now());
  client.link->send(Shutdown{"done"});
  coordinator->run();
  client.pump();
  EXPECT_EQ(client.ended.at(1).finish, FinishReason::kCancelled);
}

}  // namespace
}  // namespace convoke
