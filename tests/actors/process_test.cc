// Real processes: the drafter's keeper, and supervisors of a job whose ranks are killed.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "actors/drafter_process.h"
#include "actors/supervisor.h"
#include "actors/zmq_transport.h"
#include "kernels/check.h"

extern char** environ;

namespace convoke {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
namespace fs = std::filesystem;

std::vector<std::string> environment(const std::string& more = "") {
  std::vector<std::string> all;
  for (char** variable = environ; *variable; ++variable) all.push_back(*variable);
  if (!more.empty()) all.push_back(more);
  return all;
}

template <typename Condition>
bool eventually(Condition condition, Clock::duration patience = seconds(20)) {
  for (const auto deadline = Clock::now() + patience; Clock::now() < deadline;) {
    if (condition()) return true;
    std::this_thread::sleep_for(milliseconds(5));
  }
  return condition();
}

bool alive(pid_t pid) {
  // A zombie is dead; who reaps it is another matter.
  std::ifstream in("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  if (!std::getline(in, text)) return false;
  const size_t end = text.rfind(')');
  return end != std::string::npos && text.size() > end + 2 && text[end + 2] != 'Z' &&
         text[end + 2] != 'X';
}

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name = (fs::temp_directory_path() / "convoke-test-XXXXXX").string();
    if (!::mkdtemp(name.data())) throw std::runtime_error("mkdtemp");
    path_ = name;
  }
  ~TemporaryFolder() { fs::remove_all(path_); }
  const fs::path& path() const { return path_; }

 private:
  fs::path path_;
};

/// A process of the helper program; killed with the object.
class Helper {
 public:
  Helper(std::vector<std::string> arguments, const std::string& error_file = "") {
    arguments.insert(arguments.begin(), CONVOKE_PROCESS_HELPER);
    std::vector<char*> pointers;
    for (std::string& a : arguments) pointers.push_back(a.data());
    pointers.push_back(nullptr);
    posix_spawn_file_actions_t actions;
    ::posix_spawn_file_actions_init(&actions);
    if (!error_file.empty()) {
      ::posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, error_file.c_str(),
                                         O_WRONLY | O_CREAT | O_APPEND, 0600);
    }
    const int error =
        ::posix_spawn(&pid_, CONVOKE_PROCESS_HELPER, &actions, nullptr, pointers.data(), environ);
    ::posix_spawn_file_actions_destroy(&actions);
    if (error != 0) throw std::runtime_error("posix_spawn");
  }
  Helper(const Helper&) = delete;
  Helper& operator=(const Helper&) = delete;
  ~Helper() {
    if (pid_ <= 0) return;
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }

  void signal(int number) const { ::kill(pid_, number); }
  pid_t pid() const { return pid_; }

  /// Exit code, or 128 + signal; -1 if it is still there.
  int wait(Clock::duration patience = seconds(20)) {
    int status = 0;
    if (!eventually([&] { return ::waitpid(pid_, &status, WNOHANG) == pid_; }, patience)) return -1;
    pid_ = 0;
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
  }

 private:
  pid_t pid_ = 0;
};

// --- the drafter's process ----------------------------------------------------------------------

class DrafterProcessTest : public testing::Test {
 protected:
  DrafterProcessOptions options(const std::string& faults = "") {
    DrafterProcessOptions o;
    o.worker.endpoint = mailbox_->endpoints().front();
    o.worker.drafter = "ngram";
    o.worker.context.vocabulary = 10;
    o.worker.role = "drafter under test";
    o.environment = environment(faults.empty() ? "" : "CONVOKE_TEST_DRAFTER_FAULTS=" + faults);
    o.executable = CONVOKE_PROCESS_HELPER;
    o.first_backoff = milliseconds(20);
    return o;
  }

  /// The next introduction.
  std::optional<DrafterReady> ready() {
    for (const auto deadline = Clock::now() + seconds(20); Clock::now() < deadline;) {
      const auto letter = mailbox_->receive(deadline);
      if (!letter) break;
      if (const auto* message = std::get_if<DrafterReady>(&letter->message)) {
        peer_ = letter->from;
        return *message;
      }
    }
    return std::nullopt;
  }

  std::optional<DraftTrees> ask() {
    mailbox_->send(peer_, SequenceOpened{{1, {1, 2, 3, 1, 2}, 5, {}}});
    mailbox_->send(peer_, VerdictBatch{4, {}, {1}, {4, 4}});
    for (const auto deadline = Clock::now() + seconds(20); Clock::now() < deadline;) {
      const auto letter = mailbox_->receive(deadline);
      if (!letter) break;
      if (const auto* trees = std::get_if<DraftTrees>(&letter->message)) return *trees;
    }
    return std::nullopt;
  }

  std::unique_ptr<Mailbox> mailbox_ = make_zmq_mailbox({"ipc://*"});
  PeerId peer_;
};

TEST_F(DrafterProcessTest, DraftsDiesAndIsStartedAgain) {
  DrafterProcess process(options());
  for (uint32_t life = 0; life < 3; ++life) {
    const auto introduction = ready();
    ASSERT_TRUE(introduction);
    EXPECT_EQ(introduction->method, "ngram");
    EXPECT_EQ(introduction->incarnation, life);
    const auto trees = ask();
    ASSERT_TRUE(trees);
    EXPECT_EQ(trees->trees.at(0).tree.nodes.at(0).token, 3);
    const pid_t child = process.pid();
    ASSERT_GT(child, 0);
    ::kill(child, SIGKILL);
    EXPECT_TRUE(eventually([&] { return !alive(child); }));
  }
}

TEST_F(DrafterProcessTest, LeavesOnShutdownAndIsReaped) {
  auto process = std::make_unique<DrafterProcess>(options());
  ASSERT_TRUE(ready());
  const pid_t child = process->pid();
  mailbox_->send(peer_, Shutdown{"done"});
  EXPECT_TRUE(eventually([&] { return process->pid() == 0; }));
  std::this_thread::sleep_for(milliseconds(100));
  EXPECT_EQ(process->starts(), 1u) << "told to leave, it is not started again";
  process.reset();
  EXPECT_FALSE(fs::exists("/proc/" + std::to_string(child)));
}

TEST_F(DrafterProcessTest, StopEndsAChildThatWasNotToldAndOneThatDoesNotListen) {
  for (const bool stopped : {false, true}) {
    auto o = options();
    o.patience = milliseconds(200);
    auto process = std::make_unique<DrafterProcess>(o);
    ASSERT_TRUE(ready());
    const pid_t child = process->pid();
    if (stopped) ::kill(child, SIGSTOP);  // then SIGTERM has no effect
    const auto start = Clock::now();
    process.reset();
    EXPECT_LT(Clock::now() - start, seconds(10));
    EXPECT_FALSE(fs::exists("/proc/" + std::to_string(child)));
  }
}

TEST_F(DrafterProcessTest, WhatCannotWorkIsNotTriedForEver) {
  auto o = options();
  o.worker.drafter = "no-such-method";
  DrafterProcess process(o);
  EXPECT_TRUE(eventually([&] { return process.hopeless(); }));
  EXPECT_EQ(process.starts(), 1u);
}

TEST_F(DrafterProcessTest, AMissingProgramIsTriedWithGrowingPauses) {
  auto o = options();
  o.executable = "/nonexistent/convoke";
  o.first_backoff = milliseconds(50);
  DrafterProcess process(o);
  std::this_thread::sleep_for(milliseconds(500));
  EXPECT_GE(process.starts(), 1u);
  EXPECT_LE(process.starts(), 5u);
}

TEST_F(DrafterProcessTest, DiesAtEveryMessageIndexAndComesBack) {
  for (int index = 0; index < 3; ++index) {
    DrafterProcess process(options("die-at=" + std::to_string(index)));
    ASSERT_TRUE(ready());
    mailbox_->send(peer_, SequenceOpened{{1, {1, 2, 3, 1, 2}, 5, {}}});
    for (int i = 0; i < 4; ++i) mailbox_->send(peer_, VerdictBatch{uint64_t(i), {}, {1}, {4, 4}});
    const auto again = ready();
    ASSERT_TRUE(again) << index;
    EXPECT_EQ(again->incarnation, 1u);
    EXPECT_TRUE(ask());
  }
}

TEST_F(DrafterProcessTest, TheChildDiesWithItsKeeper) {
  auto keeper =
      std::make_unique<Helper>(std::vector<std::string>{"keeper", mailbox_->endpoints().front()});
  ASSERT_TRUE(ready());
  pid_t child = 0;
  ASSERT_TRUE(eventually([&] {
    for (const auto& entry : fs::directory_iterator("/proc")) {
      std::ifstream in(entry.path() / "stat");
      std::string text;
      if (!std::getline(in, text)) continue;
      std::istringstream rest(text.substr(text.rfind(')') + 2));
      char state = 0;
      pid_t parent = 0;
      rest >> state >> parent;
      if (parent == keeper->pid()) child = std::stoi(entry.path().filename());
    }
    return child != 0;
  }));
  keeper->signal(SIGKILL);
  EXPECT_EQ(keeper->wait(), 128 + SIGKILL);
  EXPECT_TRUE(eventually([&] { return !alive(child); }, seconds(5)));
}

TEST(DrafterWorker, ArgumentsComeBackAndErrorsAreNamed) {
  DrafterWorkerOptions options;
  options.endpoint = "ipc://x y";
  options.drafter = "ngram:max_n=3";
  options.shared_noise = false;
  options.ahead = true;
  options.context = {.vocabulary = 123,
                     .model = "/a model",
                     .load_format = "dummy",
                     .dtype = "float32",
                     .cpu_isa = "avx2",
                     .threads = 3,
                     .gpu = {.device = 2, .graphs = false, .library_products = true},
                     .float16 = true,
                     .max_sequences = 7,
                     .max_model_len = 99};
  options.incarnation = 4;
  options.rank = 5;
  options.host = "host name";
  options.role = "a role";
  const auto back = parse_worker_arguments(worker_arguments(options));
  EXPECT_EQ(back.endpoint, options.endpoint);
  EXPECT_EQ(back.drafter, options.drafter);
  EXPECT_FALSE(back.shared_noise);
  EXPECT_TRUE(back.ahead);
  EXPECT_EQ(back.context.vocabulary, 123);
  EXPECT_EQ(back.context.model, options.context.model);
  EXPECT_EQ(back.context.load_format, "dummy");
  EXPECT_EQ(back.context.dtype, "float32");
  EXPECT_EQ(back.context.cpu_isa, "avx2");
  EXPECT_EQ(back.context.threads, 3);
  EXPECT_EQ(back.context.gpu.device, 2);
  EXPECT_FALSE(back.context.gpu.graphs);
  EXPECT_TRUE(back.context.gpu.library_products && back.context.float16);
  EXPECT_EQ(back.context.max_sequences, 7);
  EXPECT_EQ(back.context.max_model_len, 99);
  EXPECT_EQ(back.incarnation, 4u);
  EXPECT_EQ(back.rank, 5);
  EXPECT_EQ(back.host, options.host);
  EXPECT_EQ(back.role, options.role);
  using Arguments = std::vector<std::string>;
  for (const auto& bad : {Arguments{}, Arguments{"--connect", "a"}, Arguments{"--connect"},
                          Arguments{"--connect", "a", "--drafter", "b", "--what", "c"},
                          Arguments{"--connect", "a", "--drafter", "b", "--rank", "1x"}}) {
    EXPECT_THROW(parse_worker_arguments(bad), Error);
  }
}

// --- supervisors --------------------------------------------------------------------------------

class Job {
 public:
  Job(int size, const std::vector<std::string>& modes = {}) {
    for (int rank = 0; rank < size; ++rank) {
      std::vector<std::string> arguments{"supervisor", std::to_string(rank), std::to_string(size),
                                         folder_.path().string()};
      if (size_t(rank) < modes.size() && !modes[size_t(rank)].empty()) {
        arguments.push_back(modes[size_t(rank)]);
      }
      ranks_.push_back(std::make_unique<Helper>(arguments, (folder_.path() / "stderr").string()));
    }
    for (int rank = 0; rank < size; ++rank) {
      EXPECT_TRUE(eventually([&] { return fs::exists(file("started", rank)); }));
    }
    std::this_thread::sleep_for(milliseconds(300));  // heartbeats have been exchanged
  }

  Helper& operator[](int rank) { return *ranks_[size_t(rank)]; }
  std::vector<std::string> messages() const {
    std::ifstream in(folder_.path() / "stderr");
    std::vector<std::string> lines;
    for (std::string line; std::getline(in, line);) {
      if (line.rfind("convoke:", 0) == 0) lines.push_back(line);
    }
    return lines;
  }
  fs::path file(const char* what, int rank) const {
    return folder_.path() / (std::string(what) + "." + std::to_string(rank));
  }

 private:
  TemporaryFolder folder_;
  std::vector<std::unique_ptr<Helper>> ranks_;
};

TEST(SupervisorJob, AKilledRankIsNamedOnceAndAllEnd) {
  Job job(4);
  const auto start = Clock::now();
  job[2].signal(SIGKILL);
  EXPECT_EQ(job[2].wait(), 128 + SIGKILL);
  for (int rank : {0, 1, 3}) EXPECT_EQ(job[rank].wait(), 9) << rank;
  EXPECT_LT(Clock::now() - start, seconds(10));
  EXPECT_EQ(job.messages(),
            std::vector<std::string>{
                "convoke: rank 2 (host h2, shard 2) died: connection lost; the job ends"});
}

TEST(SupervisorJob, TheLowestSurvivorSpeaksWhenRankZeroDies) {
  Job job(4);
  const auto start = Clock::now();
  job[0].signal(SIGKILL);
  for (int rank : {1, 2, 3}) EXPECT_EQ(job[rank].wait(), 9) << rank;
  EXPECT_LT(Clock::now() - start, seconds(10));
  EXPECT_EQ(job.messages(),
            std::vector<std::string>{
                "convoke: rank 0 (host h0, shard 0) died: connection lost; the job ends"});
}

TEST(SupervisorJob, RanksZeroAndOneDieTogether) {
  Job job(4);
  job[1].signal(SIGSTOP);  // so that it cannot speak first
  job[0].signal(SIGKILL);
  job[1].signal(SIGKILL);
  for (int rank : {2, 3}) EXPECT_EQ(job[rank].wait(), 9) << rank;
  EXPECT_EQ(job.messages().size(), 1u);
  EXPECT_NE(job.messages().at(0).find("rank 0 (host h0"), std::string::npos);
}

TEST(SupervisorJob, ASilentRankIsDead) {
  Job job(3);
  const auto start = Clock::now();
  job[1].signal(SIGSTOP);
  for (int rank : {0, 2}) EXPECT_EQ(job[rank].wait(), 9) << rank;
  EXPECT_LT(Clock::now() - start, seconds(10));
  ASSERT_EQ(job.messages().size(), 1u);
  EXPECT_NE(job.messages()[0].find("rank 1 (host h1, shard 1) died: nothing heard for 2."),
            std::string::npos)
      << job.messages()[0];
}

TEST(SupervisorJob, ALauncherThatClearsUpDoesNotHideTheMessage) {
  for (int victim : {0, 1}) {
    Job job(3);
    job[victim].signal(SIGKILL);
    EXPECT_EQ(job[victim].wait(), 128 + SIGKILL);  // a launcher waits for its children, too
    for (int rank = 0; rank < 3; ++rank) {
      if (rank != victim) job[rank].signal(SIGTERM);
    }
    for (int rank = 0; rank < 3; ++rank) {
      if (rank != victim) {
        EXPECT_EQ(job[rank].wait(), 9) << rank;
      }
    }
    ASSERT_EQ(job.messages().size(), 1u) << victim;
    EXPECT_NE(job.messages()[0].find("rank " + std::to_string(victim)), std::string::npos);
  }
}

TEST(SupervisorJob, ASignalAloneIsAnOrderlyEnd) {
  Job job(2);
  for (int rank : {0, 1}) job[rank].signal(SIGTERM);
  for (int rank : {0, 1}) {
    EXPECT_EQ(job[rank].wait(), 0);
    EXPECT_TRUE(fs::exists(job.file("shutdown", rank)));
    EXPECT_FALSE(fs::exists(job.file("death", rank)));
  }
  ASSERT_EQ(job.messages().size(), 1u);
  EXPECT_NE(job.messages()[0].find("SIGTERM received"), std::string::npos);
}

TEST(SupervisorJob, TheSecondSignalEndsAtOnce) {
  Job job(1, {"stubborn"});
  job[0].signal(SIGINT);
  ASSERT_TRUE(eventually([&] { return fs::exists(job.file("shutdown", 0)); }));
  job[0].signal(SIGINT);
  EXPECT_EQ(job[0].wait(), 128 + SIGINT);
}

TEST(SupervisorJob, RanksMayLeaveOneAfterTheOther) {
  Job job(3, {"", "leave", ""});
  EXPECT_EQ(job[1].wait(), 0);
  std::this_thread::sleep_for(milliseconds(2500));  // longer than the silence allowed
  EXPECT_FALSE(fs::exists(job.file("death", 0)));
  EXPECT_FALSE(fs::exists(job.file("death", 2)));
  job[0].signal(SIGTERM);
  EXPECT_EQ(job[0].wait(), 0);
  std::this_thread::sleep_for(milliseconds(2500));
  EXPECT_FALSE(fs::exists(job.file("death", 2)));
}

TEST(SupervisorJob, AReportedFailureNamesTheRankAndTheReason) {
  for (int victim : {0, 2}) {
    std::vector<std::string> modes(3);
    modes[size_t(victim)] = "fail";
    Job job(3, modes);
    for (int rank : {0, 1, 2}) EXPECT_EQ(job[rank].wait(), 9) << rank;
    ASSERT_EQ(job.messages().size(), 1u);
    const auto name = std::to_string(victim);
    EXPECT_EQ(job.messages()[0], "convoke: rank " + name + " (host h" + name + ", shard " + name +
                                     ") failed: it has no memory left; the job ends");
  }
}

TEST(Supervisor, AloneItWatchesNobody) {
  SupervisorOptions options;
  options.handle_signals = false;
  options.watch.silence = milliseconds(50);
  std::atomic<int> called{0};
  options.on_death = [&](const std::string&) { ++called; };
  Supervisor supervisor(options);
  supervisor.start({{{0, "h", "r"}, supervisor.endpoint()}});
  std::this_thread::sleep_for(milliseconds(300));
  supervisor.leave();
  supervisor.leave();
  EXPECT_EQ(called.load(), 0);
}

}  // namespace
}  // namespace convoke
