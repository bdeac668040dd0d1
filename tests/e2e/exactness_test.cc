// Whole jobs on the demo model: whatever drafts, wherever it runs, however the job is cut, batched
// and chunked, every request's tokens and the fingerprints of the logits that picked them are those
// of plain decoding, one request at a time, on one thread. In every job a third of the requests is
// greedy, a third has a nucleus, a third neither: the ways to pick share batches and passes.
#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/shell.h"

namespace convoke {
namespace {

using testing::mpirun;
using testing::shell;
using testing::ShellResult;

const std::string kProbe =
    CONVOKE_PROBE " --model " CONVOKE_SOURCE_DIR "/demo/model --prompts " CONVOKE_SOURCE_DIR
                  "/demo/prompts.jsonl --mixed-sampling ";
const std::string kManyProbe = kProbe + "--limit 20 --max-tokens 16 ";

class DemoJobs : public ::testing::Test {
 protected:
  void SetUp() override {
    reference = run(kManyProbe + "--threads 1 --max-num-seqs 1 ");
    ASSERT_EQ(std::ranges::count(reference, '\n'), 20);
  }
  std::string run(const std::string& command) {
    const ShellResult result = shell(command);
    EXPECT_EQ(result.exit_code, 0) << command << "\n" << result.err;
    return result.out;
  }
  /// On one thread per shard, unless it says otherwise: other tests run on the other cores.
  void expect_same(std::string command) {
    if (command.find("--threads") == std::string::npos) command += " --threads 1";
    // EXPECT_EQ on the texts would print both.
    EXPECT_TRUE(run(command) == reference) << "other tokens or logits: " << command;
  }

  std::string reference;
};

TEST_F(DemoJobs, OneProcess) {
  for (const char* flags :
       {"--threads 2 ", "--max-num-seqs 16 --prompt-chunk 1 ",
        "--max-num-seqs 5 --prompt-chunk 512 ", "--drafter ngram --expect-accepted 25 ",
        "--drafter ngram --max-num-seqs 1 --threads 1 ", "--drafter random:1 --expect-accepted 10 ",
        "--drafter random:2 --max-num-seqs 1 --prompt-chunk 7 ", "--tp 2 --threads 2 ",
        "--tp 2 --drafter random:4 ", "--tp 4 --drafter ngram ", "--tp 4 --prompt-chunk 7 ",
        "--replicas 2 --drafter ngram ", "--drafter ngram --drafter-placement process ",
        // Less cache than the sequences want: they push each other out.
        "--kv-cache-tokens 1600 --drafter ngram "}) {
    expect_same(kManyProbe + flags);
  }
}

TEST_F(DemoJobs, UnderMpirun) {
  if (!testing::have_mpirun()) GTEST_SKIP() << "mpirun is not installed";
  for (const auto& [ranks, flags] : std::initializer_list<std::pair<int, const char*>>{
           {1, "--drafter ngram "},                       // a thread beside the only shard
           {2, "--drafter ngram --expect-accepted 25 "},  // one shard, a drafter rank
           {2, "--tp 2 "},
           {3, "--drafter ngram --expect-accepted 25 "},
           {3, "--drafter random:5 --max-num-seqs 1 "},
           {4, "--tp 4 "},
           {5, "--drafter ngram --prompt-chunk 7 "},
           {4, "--replicas 2 --drafter random:6 "}}) {
    expect_same(mpirun(ranks) + kManyProbe + flags);
  }
}

TEST_F(DemoJobs, AcrossHosts) {
  if (!testing::have_mpirun()) GTEST_SKIP() << "mpirun is not installed";
  const std::string hosts =
      "env OMPI_MCA_mpi_yield_when_idle=1 OMPI_MCA_rmaps_base_oversubscribe=1 "
      "python3 " CONVOKE_SOURCE_DIR
      "/tests/support/hosts/hosts.py --hosts 3 --timeout 100 --keep " CONVOKE_BUILD_DIR
      " -- mpirun ";
  // Two shards of one host and the drafter on another; then everybody alone.
  for (const char* where : {"-np 3 --host h1:2,h2:1 ", "-np 3 --host h1:1,h2:1,h3:1 "}) {
    const ShellResult result = shell(hosts + where + kManyProbe + "--drafter ngram ");
    if (result.exit_code == 77) GTEST_SKIP() << "hosts cannot be made here";
    EXPECT_EQ(result.exit_code, 0) << result.err;
    EXPECT_TRUE(result.out == reference) << "other tokens or logits: " << where;
  }
}

// --- every drafter ------------------------------------------------------------------------------

// Patient, so that trees take part however busy the machine is; still, any of them may be late.
const std::string kFewProbe = kProbe + "--limit 8 --max-tokens 24 --draft-deadline-ms 5000 ";

/// A drafter that comes with the demo model.
std::string shipped(const std::string& method) {
  return "--drafter " + method + ":" CONVOKE_SOURCE_DIR "/demo/drafters/" + method;
}

/// The demo model drafting for itself: nearly everything it says is accepted, to the full depth.
const std::string kItself = "--drafter draft-model:" CONVOKE_SOURCE_DIR "/demo/model ";

class DrafterJobs : public DemoJobs {
 protected:
  void SetUp() override { reference = run(kFewProbe + "--threads 1 --max-num-seqs 1 "); }
};

TEST_F(DrafterJobs, OneProcess) {
  for (const std::string& flags : {
           std::string("--drafter lookahead "),
           std::string("--drafter lookahead:window=3,ngram=4,guesses=2 --tp 4 "),
           shipped("pass") + " --draft-tokens 40 --expect-accepted 20 ",
           shipped("pass") + ",mode=two-pass,candidates=16 --tp 2 --expect-accepted 20 ",
           std::string("--drafter pass:random,lookahead=3 --tp 4 --max-num-seqs 1 "),
           shipped("eagle") + " --max-num-seqs 1 --prompt-chunk 7 --expect-accepted 60 ",
           shipped("eagle") + ",tree=static --draft-tokens 25 --tp 2 --expect-accepted 60 ",
           shipped("eagle3") + " --tp 4 --kv-cache-tokens 1600 --expect-accepted 60 ",
           std::string("--drafter eagle3:random --draft-ahead --drafter-placement process "),
           shipped("medusa") + " --tp 2 --prompt-chunk 5 --expect-accepted 40 ",
           std::string("--drafter eagle:random --draft-tokens -1 "),
           kItself + "--expect-accepted 60 ",
           kItself + "--unshared-noise --tp 2 ",
           kItself + "--draft-tokens -1 --max-num-seqs 1 ",
           kItself + "--draft-ahead --expect-accepted 20 --max-num-seqs 3 ",
       }) {
    expect_same(kFewProbe + flags);
  }
}

TEST_F(DrafterJobs, WithVerdictsAndTreesOutOfStep) {
  for (const char* faults : {"stale-every=2,mute-every=5", "garbage-every=3,oversize-every=2",
                             "delay-ms=15,mute-every=4", "die-every=40"}) {
    const std::string misbehaving = std::string("env CONVOKE_TEST_DRAFTER_FAULTS=") + faults + " " +
                                    kProbe + "--limit 8 --max-tokens 24 ";
    const bool dies = faults[0] == 'd' && faults[1] == 'i';
    const std::string place = dies ? "--drafter-placement process " : "";
    expect_same(misbehaving + kItself + "--draft-ahead " + place);
    expect_same(misbehaving + "--drafter eagle:random --max-num-seqs 3 " + place);
  }
}

TEST_F(DrafterJobs, OnRanksOfTheirOwn) {
  if (!testing::have_mpirun()) GTEST_SKIP() << "mpirun is not installed";
  for (const auto& [ranks, flags] : std::initializer_list<std::pair<int, std::string>>{
           {2, kItself + "--expect-accepted 20 "},  // drafts ahead: it has a rank
           {3, kItself + "--unshared-noise "},
           {3, shipped("eagle") + " --expect-accepted 40 "},
           {5, "--drafter eagle3:random --prompt-chunk 7 "},
           {3, shipped("medusa") + " "},
           {3, shipped("pass") + " --draft-tokens 40 "},
           {2, "--drafter pass:random,mode=two-pass "},
           {3, "--drafter lookahead --max-num-seqs 1 "}}) {
    expect_same(mpirun(ranks) + kFewProbe + flags);
  }
}

}  // namespace
}  // namespace convoke
