// What must not matter, and what must end the job: drafters that fail in every way, killed shards,
// killed batches.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <fstream>
#include <set>
#include <sstream>
#include <thread>

#include "kernels/check.h"
#include "tests/support/shell.h"

namespace convoke {
namespace {

using testing::mpirun;
using testing::shell;
using testing::ShellProcess;
using testing::ShellResult;

const std::string kModel = CONVOKE_SOURCE_DIR "/demo/model";
const std::string kPrompts = CONVOKE_SOURCE_DIR "/demo/prompts.jsonl";
const std::string kProbe = CONVOKE_PROBE " --model " + kModel + " --prompts " + kPrompts +
                           " --limit 8 --max-tokens 24 --temperature 1 --max-num-seqs 4 --threads "
                           "1 --draft-deadline-ms 200 ";

std::string run(const std::string& command) {
  const ShellResult result = shell(command);
  EXPECT_EQ(result.exit_code, 0) << command << "\n" << result.err;
  return result.out;
}

class DrafterFaults : public ::testing::TestWithParam<std::string> {};

TEST_P(DrafterFaults, CostSpeedAndNoToken) {
  const std::string reference = run(kProbe);
  ASSERT_EQ(std::ranges::count(reference, '\n'), 8);
  const std::string faulty = "env CONVOKE_TEST_DRAFTER_FAULTS=" + GetParam() + " ";
  for (const char* placement : {"thread", "process"}) {
    EXPECT_TRUE(run(faulty + kProbe + "--drafter ngram --drafter-placement " + placement) ==
                reference)
        << placement;
  }
  if (testing::have_mpirun()) {
    EXPECT_TRUE(run(faulty + mpirun(3) + kProbe + "--drafter ngram") == reference) << "rank";
  }
}

INSTANTIATE_TEST_SUITE_P(Kinds, DrafterFaults,
                         ::testing::Values("die-at=0", "die-at=1", "die-at=7", "die-at=20",
                                           "die-every=5", "garbage-every=2", "stale-every=2",
                                           "oversize-every=2", "mute-every=3", "delay-ms=30"),
                         [](const auto& test) {
                           std::string name = test.param;
                           for (char& c : name) c = std::isalnum(uint8_t(c)) ? c : '_';
                           return name;
                         });

/// Pid of the rank of a running mpirun job, from its environment; 0 if there is none yet.
pid_t pid_of_rank(int rank, const std::string& mark) {
  std::istringstream lines(testing::processes_with(mark));
  std::string line;
  while (std::getline(lines, line)) {
    const std::string pid = line.substr(0, line.find(':'));
    if (line.find("mpirun") != std::string::npos) continue;
    const std::string environment = testing::read_file("/proc/" + pid + "/environ");
    const std::string wanted = fmt::format("OMPI_COMM_WORLD_RANK={}", rank) + '\0';
    if (environment.find(wanted) != std::string::npos) return pid_t(std::stol(pid));
  }
  return 0;
}

class KilledRank : public ::testing::TestWithParam<int> {};

TEST_P(KilledRank, EndsTheJobWithOneMessage) {
  if (!testing::have_mpirun()) GTEST_SKIP() << "mpirun is not installed";
  TemporaryDirectory scratch;
  const std::string output = (scratch.path() / "out.jsonl").string();
  // Much work, so that the kill comes in the middle of it. The output's path marks our processes.
  std::ofstream prompts(scratch.path() / "in.jsonl");
  for (int i = 0; i < 400; ++i) {
    prompts
        << R"({"custom_id":")" << i
        << R"(","method":"POST","url":"/v1/completions","body":{"model":"demo","prompt":"def f(",)"
        << R"("max_tokens":400,"ignore_eos":true}})"
        << "\n";
  }
  prompts.close();
  ShellProcess job(mpirun(3) + CONVOKE_BINARY + " batch --model " + kModel + " -i " +
                   (scratch.path() / "in.jsonl").string() + " -o " + output + " --drafter ngram");
  pid_t victim = 0;
  // The first result takes as long as the machine needs for it; only a hang takes so long.
  const auto hang = std::chrono::steady_clock::now() + std::chrono::minutes(3);
  while ((victim == 0 || testing::read_file(output).empty()) &&
         std::chrono::steady_clock::now() < hang) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    victim = pid_of_rank(GetParam(), output);
  }
  ASSERT_NE(victim, 0);
  ASSERT_FALSE(testing::read_file(output).empty()) << "no result before the kill";
  const auto killed = std::chrono::steady_clock::now();
  ::kill(victim, SIGKILL);
  const ShellResult result = job.wait(std::chrono::seconds(60));
  const double seconds =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - killed).count();
  EXPECT_NE(result.exit_code, 0);
  EXPECT_NE(result.exit_code, -1) << "the job went on";
  EXPECT_LT(seconds, 10);
  // Exactly one line of ours names the rank and its host.
  std::istringstream lines(result.err);
  std::string line;
  int messages = 0;
  while (std::getline(lines, line)) {
    if (line.rfind("convoke: ", 0) != 0) continue;
    ++messages;
    EXPECT_NE(line.find(fmt::format("rank {}", GetParam())), std::string::npos) << line;
    EXPECT_NE(line.find("host "), std::string::npos) << line;
  }
  EXPECT_EQ(messages, 1) << result.err;
  std::this_thread::sleep_for(std::chrono::milliseconds(500));
  EXPECT_EQ(testing::processes_with(output), "");
}

INSTANTIATE_TEST_SUITE_P(Ranks, KilledRank, ::testing::Values(0, 1, 2));

std::set<std::string> lines_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::set<std::string> lines;
  std::string line;
  while (std::getline(file, line)) EXPECT_TRUE(lines.insert(line).second) << "a line twice";
  return lines;
}

int64_t lines_in(const std::filesystem::path& path) {
  return std::ranges::count(testing::read_file(path), '\n');
}

TEST(KilledBatch, ResumesToTheSameLines) {
  TemporaryDirectory scratch;
  const auto command = [&](const std::string& output) {
    return std::string(CONVOKE_BINARY) + " batch --model " + kModel + " -i " + kPrompts + " -o " +
           (scratch.path() / output).string() +
           " --drafter ngram --quiet --threads 1 --override --max-tokens 24 ";
  };
  run(command("undisturbed"));
  const std::set<std::string> expected = lines_of(scratch.path() / "undisturbed");
  ASSERT_EQ(expected.size(), 34u);
  int partial = 0;
  // Killed when so many lines are there, once and again after a resume; and at the very beginning.
  for (int wanted : {0, 5, 30}) {
    const std::string name = "killed" + std::to_string(wanted);
    for (int kill = 0; kill < 2; ++kill) {
      ShellProcess job(command(name) + (kill > 0 ? "--resume" : ""));
      for (int i = 0; i < 4000 && lines_in(scratch.path() / name) < wanted + kill; ++i) {
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
      }
      job.kill(SIGKILL);
      job.wait(std::chrono::seconds(30));
    }
    const auto lines = lines_in(scratch.path() / name);
    partial += lines > 0 && lines < 34 ? 1 : 0;
    run(command(name) + "--resume");
    EXPECT_TRUE(lines_of(scratch.path() / name) == expected) << "killed at " << lines << " lines";
  }
  EXPECT_GT(partial, 0) << "no kill came in the middle of the work";
}

}  // namespace
}  // namespace convoke
