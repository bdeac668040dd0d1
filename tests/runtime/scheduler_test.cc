#include "runtime/scheduler.h"

#include <gtest/gtest.h>

#include <map>
#include <random>

#include "kernels/check.h"
#include "tests/support/fake_target.h"

namespace convoke {
namespace {

using testing::FakeTarget;

constexpr int kVocabulary = 50;

SchedulerOptions options(int sequences, int rows, int chunk, int32_t blocks, int length = 256) {
  return {.max_sequences = sequences,
          .max_rows = rows,
          .prompt_chunk = chunk,
          .kv_blocks = blocks,
          .max_model_len = length,
          .vocabulary = kVocabulary,
          .eos_tokens = {49}};
}

struct Job {
  std::vector<int32_t> prompt;
  SamplingParams sampling;
  std::vector<int32_t> output;
  SequenceEnd end = SequenceEnd::kNone;
};

std::map<SequenceId, Job> make_jobs(int count, uint32_t seed, int max_prompt = 40) {
  std::mt19937 random(seed);
  std::map<SequenceId, Job> jobs;
  for (int i = 0; i < count; ++i) {
    Job& job = jobs[SequenceId(100 + i)];
    job.prompt.resize(1 + random() % unsigned(max_prompt));
    for (int32_t& t : job.prompt) t = int32_t(random() % kVocabulary);
    job.sampling.max_tokens = 1 + int(random() % 30);
    job.sampling.seed = random();
    job.sampling.ignore_eos = random() % 2 == 0;
  }
  return jobs;
}

// Trees that know the truth about half of the time.
class Guesser {
 public:
  Guesser(const FakeTarget& target, const std::map<SequenceId, Job>& jobs, uint32_t seed)
      : target_(target), jobs_(jobs), random_(seed) {}

  const DraftTree* operator()(SequenceId id, const Scheduler& scheduler) {
    if (random_() % 5 == 0) return nullptr;
    const auto tokens = scheduler.tokens(id);
    const std::vector<int32_t> prefix(tokens.begin(), tokens.end());
    tree_.nodes.clear();
    std::vector<std::vector<int32_t>> paths{prefix};
    const int size = int(random_() % 12);
    for (int n = 0; n < size; ++n) {
      const int parent = int(random_() % unsigned(tree_.size() + 1)) - 1;
      if (parent >= 0 && tree_.nodes[size_t(parent)].probe) continue;
      const std::vector<int32_t>& before = paths[size_t(parent) + 1];
      const bool truth = random_() % 2 == 0;
      const int32_t token = truth ? target_.next(before, jobs_.at(id).sampling.seed)
                                  : int32_t(random_() % kVocabulary);
      tree_.nodes.push_back({parent, token, random_() % 8 == 0});
      std::vector<int32_t> path = paths[size_t(parent) + 1];
      path.push_back(token);
      paths.push_back(path);
    }
    return find_defect(tree_, kVocabulary, 0).empty() ? &tree_ : nullptr;
  }

 private:
  const FakeTarget& target_;
  const std::map<SequenceId, Job>& jobs_;
  std::mt19937 random_;
  DraftTree tree_;
};

struct Outcome {
  int steps = 0;
  int accepted = 0;
  int64_t preemptions = 0;
};

Outcome run(Scheduler& scheduler, FakeTarget& target, std::map<SequenceId, Job>& jobs,
            Guesser* guesser) {
  for (auto& [id, job] : jobs) scheduler.add(id, job.prompt, job.sampling);
  Outcome outcome;
  StepResult result;
  while (!scheduler.idle() && outcome.steps < 20000) {
    const StepPlan& plan = scheduler.plan([&](SequenceId id, int32_t length) -> const DraftTree* {
      EXPECT_EQ(size_t(length), scheduler.tokens(id).size());
      return guesser == nullptr ? nullptr : (*guesser)(id, scheduler);
    });
    EXPECT_FALSE(plan.sequences.empty()) << "a step without work while requests wait";
    target.execute(plan, result);
    for (const Progress& p : scheduler.commit(result)) {
      Job& job = jobs.at(p.id);
      EXPECT_EQ(size_t(p.base_length), job.prompt.size() + job.output.size());
      EXPECT_EQ(job.end, SequenceEnd::kNone) << "progress after the end";
      for (const CommittedToken& t : p.tokens) {
        EXPECT_EQ(t.digest, job.prompt.size() + job.output.size());
        job.output.push_back(t.token);
      }
      job.end = p.end;
      outcome.accepted += p.accepted;
      outcome.preemptions = std::max(outcome.preemptions, p.preemptions);
    }
    ++outcome.steps;
  }
  return outcome;
}

void expect_plain_outputs(const FakeTarget& target, const std::map<SequenceId, Job>& jobs,
                          int max_model_len) {
  for (const auto& [id, job] : jobs) {
    const int room = std::min(job.sampling.max_tokens, max_model_len - int(job.prompt.size()));
    const std::vector<int32_t> stops =
        job.sampling.ignore_eos ? std::vector<int32_t>{} : std::vector<int32_t>{49};
    const auto expected = target.generate(job.prompt, room, job.sampling.seed, stops);
    EXPECT_EQ(job.output, expected) << "request " << id;
    EXPECT_EQ(job.end, int(expected.size()) < room ? SequenceEnd::kStop : SequenceEnd::kLength);
  }
}

struct Shape {
  int sequences, rows, chunk, blocks;
  bool drafts;
};

class SchedulerMatrix : public ::testing::TestWithParam<Shape> {};

TEST_P(SchedulerMatrix, EveryShapeGivesThePlainTokens) {
  const Shape shape = GetParam();
  for (uint32_t seed = 0; seed < 8; ++seed) {
    FakeTarget target(kVocabulary, shape.rows);
    auto jobs = make_jobs(20, seed);
    Scheduler scheduler(options(shape.sequences, shape.rows, shape.chunk, shape.blocks));
    Guesser guesser(target, jobs, seed);
    const Outcome outcome = run(scheduler, target, jobs, shape.drafts ? &guesser : nullptr);
    expect_plain_outputs(target, jobs, 256);
    if (shape.drafts && shape.rows > 1) {
      EXPECT_GT(outcome.accepted, 20);
    }
    EXPECT_EQ(scheduler.kv_usage(), 0.0);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, SchedulerMatrix,
    ::testing::Values(Shape{1, 512, 512, 64, false}, Shape{1, 512, 512, 64, true},
                      Shape{16, 512, 512, 256, false}, Shape{16, 512, 512, 256, true},
                      Shape{16, 512, 1, 256, true}, Shape{16, 512, 7, 256, true},
                      Shape{4, 5, 3, 64, true}, Shape{1, 1, 1, 8, true},
                      // Few blocks: sequences push each other out.
                      Shape{16, 64, 16, 10, false}, Shape{16, 64, 16, 10, true},
                      Shape{8, 16, 512, 6, true}));

TEST(Scheduler, FewBlocksDoPreempt) {
  FakeTarget target(kVocabulary);
  auto jobs = make_jobs(12, 3);
  for (auto& [id, job] : jobs) {
    job.prompt.resize(15, 1);
    job.sampling.max_tokens = 60;
    job.sampling.ignore_eos = true;
  }
  Scheduler scheduler(options(8, 64, 16, 12));
  const Outcome outcome = run(scheduler, target, jobs, nullptr);
  EXPECT_GT(outcome.preemptions, 0);
  expect_plain_outputs(target, jobs, 256);
}

TEST(Scheduler, AFinishedPlaceIsTakenInTheNextStep) {
  FakeTarget target(kVocabulary);
  std::map<SequenceId, Job> jobs = make_jobs(3, 1, 4);
  for (auto& [id, job] : jobs) {
    job.sampling.max_tokens = 2;
    job.sampling.ignore_eos = true;
  }
  Scheduler scheduler(options(1, 64, 64, 64));
  EXPECT_EQ(run(scheduler, target, jobs, nullptr).steps, 6);  // two steps each, no gap
}

TEST(Scheduler, TheContextEndsASequence) {
  FakeTarget target(kVocabulary);
  std::map<SequenceId, Job> jobs = make_jobs(4, 5, 20);
  for (auto& [id, job] : jobs) {
    job.sampling.max_tokens = 1000;
    job.sampling.ignore_eos = true;
  }
  Scheduler scheduler(options(4, 64, 8, 64, 24));
  Guesser guesser(target, jobs, 1);
  run(scheduler, target, jobs, &guesser);
  expect_plain_outputs(target, jobs, 24);
}

TEST(Scheduler, CancelFreesEverythingAtAnyMoment) {
  for (int when = 0; when < 12; ++when) {
    FakeTarget target(kVocabulary);
    auto jobs = make_jobs(6, 7);
    Scheduler scheduler(options(3, 16, 5, 64));
    for (auto& [id, job] : jobs) {
      job.sampling.ignore_eos = true;
      job.sampling.max_tokens = 20;
      scheduler.add(id, job.prompt, job.sampling);
    }
    StepResult result;
    for (int step = 0; !scheduler.idle(); ++step) {
      if (step == when) {
        EXPECT_TRUE(scheduler.cancel(101));
        EXPECT_TRUE(scheduler.cancel(105));
        EXPECT_FALSE(scheduler.cancel(101));
        if (scheduler.idle()) break;
      }
      target.execute(scheduler.plan({}), result);
      for (const Progress& p : scheduler.commit(result)) {
        for (const CommittedToken& t : p.tokens) jobs.at(p.id).output.push_back(t.token);
      }
    }
    for (const auto& [id, job] : jobs) {
      const auto expected = target.generate(job.prompt, 20, job.sampling.seed);
      if (id != 101 && id != 105) {
        EXPECT_EQ(job.output, expected);
      }
    }
    EXPECT_EQ(scheduler.kv_usage(), 0.0);
  }
}

TEST(Scheduler, RefusesWhatCanNeverRun) {
  Scheduler scheduler(options(2, 16, 16, 4, 100));
  SamplingParams sampling;
  EXPECT_THROW(scheduler.add(1, {}, sampling), Error);
  EXPECT_THROW(scheduler.add(1, std::vector<int32_t>(100, 1), sampling), Error);
  EXPECT_THROW(scheduler.add(1, {kVocabulary}, sampling), Error);
  EXPECT_THROW(scheduler.add(1, {-1}, sampling), Error);
  sampling.max_tokens = 80;  // 4 blocks hold 64 slots
  EXPECT_THROW(scheduler.add(1, {1, 2}, sampling), Error);
  sampling.max_tokens = 30;
  scheduler.add(1, {1, 2}, sampling);
  EXPECT_THROW(scheduler.add(1, {1, 2}, sampling), Error);
}

TEST(Scheduler, DecodingRowsComeBeforePromptRows) {
  FakeTarget target(kVocabulary);
  Scheduler scheduler(options(4, 8, 8, 64));
  SamplingParams sampling;
  sampling.ignore_eos = true;
  scheduler.add(1, {1, 2, 3}, sampling);
  StepResult result;
  target.execute(scheduler.plan({}), result);
  scheduler.commit(result);
  scheduler.add(2, std::vector<int32_t>(20, 4), sampling);
  const StepPlan& plan = scheduler.plan({});
  ASSERT_EQ(plan.sequences.size(), 2u);
  EXPECT_EQ(plan.sequences[0].chain.size(), 1u);
  EXPECT_EQ(plan.sequences[1].chain.size(), 7u);  // what was left of 8 rows
  EXPECT_FALSE(plan.sequences[1].pick);
}

}  // namespace
}  // namespace convoke
