// `convoke train` as a person runs it: on the demo model, with a few small steps.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/support/shell.h"

namespace convoke {
namespace {

using testing::shell;
using testing::ShellProcess;
using testing::ShellResult;

const std::string kModel = CONVOKE_SOURCE_DIR "/demo/model";

class TrainJobTest : public ::testing::Test {
 protected:
  TrainJobTest() {
    std::string lines;
    for (int i = 0; i < 40; ++i) {
      lines +=
          R"({"text": "def function_)" + std::to_string(i) +
          R"((a, b):\n    return a + b\n\n\nclass Thing:\n    def __init__(self):\n        pass\n"})" +
          "\n";
    }
    lines += R"({"messages": [{"role": "user", "content": "What is a list?"}, )"
             R"({"role": "assistant", "content": "A sequence that can change.", "name": null}]})"
             "\n";
    data_ = directory_.write("data.jsonl", lines).string();
  }

  std::string command(
      const std::string& method, const std::string& out, const std::string& more = "",
      const std::string& size = "--sequence-length 32 --steps 4 --eval-every 2") const {
    return std::string(CONVOKE_BINARY) + " train " + method + " --model " + kModel + " --data " +
           data_ + " --out " + (directory_.path() / out).string() +
           " --batch-size 4 --held-out 0.1 " + size + " " + more;
  }

  std::string file(const std::string& out, const std::string& name) const {
    return testing::read_file(directory_.path() / out / name);
  }

  TemporaryDirectory directory_;
  std::string data_;
};

TEST_F(TrainJobTest, EveryMethodGivesWhatTheRuntimeLoads) {
  for (const std::string method : {"eagle", "eagle3", "medusa", "pass"}) {
    const std::string small = method == "eagle3" ? "--draft-vocabulary 500 --unroll 2 --json"
                                                 : "--medusa-heads 2 --lookahead-tokens 3 --json";
    const ShellResult trained = shell(command(method, method, small));
    ASSERT_EQ(trained.exit_code, 0) << trained.err;
    EXPECT_NE(trained.err.find("expect "), std::string::npos) << trained.err;
    const auto record = nlohmann::json::parse(trained.out);
    EXPECT_EQ(record.at("steps"), 4);
    EXPECT_EQ(record.at("evaluations").size(), 2u);
    for (const auto& measured : record.at("measured")) EXPECT_EQ(measured.at("identical"), true);
    EXPECT_FALSE(std::filesystem::exists(directory_.path() / method / "checkpoint"));
    const std::string place = (directory_.path() / method).string();
    const ShellResult inspected =
        shell(std::string(CONVOKE_BINARY) + " inspect " + place + " --model " + kModel);
    EXPECT_EQ(inspected.exit_code, 0) << inspected.err;
    const ShellResult again = shell(command(method, method, small + " --resume"));
    EXPECT_EQ(again.exit_code, 2);
    EXPECT_NE(again.err.find("whose training has ended"), std::string::npos) << again.err;
  }
}

TEST_F(TrainJobTest, AnInterruptedRunGoesOnToTheSameWeights) {
  const std::string more = "--no-measure --checkpoint-every 2 --eval-sequences 4";
  const std::string size = "--sequence-length 32 --steps 8 --eval-every 4";
  ASSERT_EQ(shell(command("pass", "whole", more, size)).exit_code, 0);
  ShellProcess process(command("pass", "stopped", more, size));
  const auto checkpoint = directory_.path() / "stopped" / "checkpoint" / "state.safetensors";
  for (int i = 0; i < 600 && !std::filesystem::exists(checkpoint); ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
  }
  process.kill(SIGTERM);
  const ShellResult stopped = process.wait(std::chrono::seconds(60));
  if (stopped.exit_code != 0) {  // else it had ended before the signal came
    EXPECT_EQ(stopped.exit_code, 128 + SIGTERM) << stopped.err;
    EXPECT_NE(stopped.err.find("--resume goes on"), std::string::npos) << stopped.err;
    const ShellResult other = shell(command("pass", "stopped", more + " --resume --seed 4", size));
    EXPECT_EQ(other.exit_code, 2);
    EXPECT_NE(other.err.find("--seed: is 4, but the run in"), std::string::npos) << other.err;
    const ShellResult resumed = shell(command("pass", "stopped", more + " --resume", size));
    ASSERT_EQ(resumed.exit_code, 0) << resumed.err;
  }
  EXPECT_TRUE(file("whole", "model.safetensors") == file("stopped", "model.safetensors"));
}

TEST_F(TrainJobTest, LearnsFromWhatTheTargetWrites) {
  const ShellResult trained = shell(command("medusa", "own",
                                            "--no-measure --regenerate --regenerate-sequences 6 "
                                            "--regenerate-prompt-tokens 8 --medusa-heads 1"));
  ASSERT_EQ(trained.exit_code, 0) << trained.err;
  const std::string lines = file("own", "regenerated.jsonl");
  EXPECT_EQ(std::ranges::count(lines, '\n'), 6);
}

TEST_F(TrainJobTest, SaysWhatIsWrongInOneLine) {
  const auto refused = [&](const std::string& arguments, const std::string& text) {
    const ShellResult result = shell(arguments);
    EXPECT_EQ(result.exit_code, 2) << arguments;
    EXPECT_NE(result.err.find(text), std::string::npos) << result.err;
    EXPECT_EQ(std::ranges::count(result.err, '\n'), 1) << result.err;
  };
  const std::string convoke = CONVOKE_BINARY;
  refused(command("hydra", "x"), "'hydra' is not a method to train");
  refused(convoke + " train eagle --data x --out y", "--model: is missing");
  refused(command("eagle", "x", "--unrol 3"), "there is no such flag, perhaps --unroll");
  refused(command("eagle", "x", "", "--sequence-length 4096"), "the model's context is 512");
  refused(command("eagle", "x", "--feature-layers 1,2"), "--feature-layers: is for eagle3");
  refused(command("eagle3", "y", "--feature-layers 1,99"), "must ascend and end at 10");
  directory_.write("full.txt", "x");
  refused(command("eagle", ""), "is not empty; --resume goes on");
  const auto bad = directory_.write("bad.jsonl", "{\"text\": 5}\n");
  refused(convoke + " train eagle --model " + kModel + " --data " + bad.string() + " --out " +
              (directory_.path() / "z").string(),
          "bad.jsonl:1");
}

TEST_F(TrainJobTest, HelpShowsEveryFlag) {
  const ShellResult help = shell(std::string(CONVOKE_BINARY) + " train --help");
  EXPECT_EQ(help.exit_code, 0);
  for (const char* flag : {"--regenerate", "--unroll", "--lookahead-tokens", "--patience",
                           "--medusa-heads", "--feature-layers", "--resume"}) {
    EXPECT_NE(help.out.find(flag), std::string::npos) << flag;
  }
}

}  // namespace
}  // namespace convoke
