#include "launcher/generate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using nlohmann::json;
using testing::FakeRun;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempFolder;

/// Answers every prompt with `text`, byte by byte, then the end token.
std::function<std::optional<std::vector<int32_t>>(const std::vector<int32_t>&)> answer(
    const std::string& text) {
  return [text](const auto&) { return std::vector<int32_t>(text.begin(), text.end()); };
}

GenerateOptions options(const std::string& prompt) {
  GenerateOptions options;
  options.engine.model = "some/model";
  options.engine.drafter.method = "ngram";
  options.prompt = prompt;
  return options;
}

TEST(Generate, PrintsTheContinuation) {
  FakeRun run;
  run.engine_options.script = answer("an answer");
  EXPECT_EQ(run_generate(options("question"), run.context), kExitOk);
  EXPECT_EQ(run.out.str(), "an answer\n");
  EXPECT_EQ(run.err.str(), "");
  EXPECT_TRUE(run.seen.ended);
}

TEST(Generate, StopsBeforeAStopStringAndCancels) {
  FakeRun run;
  run.engine_options.script = answer("one two three");
  GenerateOptions stop = options("q");
  stop.sampling.stop = {"two"};
  EXPECT_EQ(run_generate(stop, run.context), kExitOk);
  EXPECT_EQ(run.out.str(), "one \n");
  EXPECT_EQ(run.seen.cancelled, 1);
}

TEST(Generate, EchoAndStats) {
  FakeRun run;
  run.engine_options.script = answer("b");
  GenerateOptions echo = options("a");
  echo.echo = true;
  echo.stats = true;
  EXPECT_EQ(run_generate(echo, run.context), kExitOk);
  EXPECT_EQ(run.out.str(), "ab\n");
  EXPECT_THAT(run.err.str(), HasSubstr("ngram (stop)"));
  EXPECT_THAT(run.err.str(), HasSubstr("mean acceptance length"));
}

TEST(Generate, ColoursDraftsOnlyWhereAsked) {
  FakeRun plain, coloured;
  plain.engine_options.script = coloured.engine_options.script = answer(std::string(60, 'a'));
  coloured.context.color = true;
  EXPECT_EQ(run_generate(options("q"), plain.context), kExitOk);
  EXPECT_EQ(run_generate(options("q"), coloured.context), kExitOk);
  EXPECT_THAT(plain.out.str(), Not(HasSubstr("\x1b")));
  EXPECT_THAT(coloured.out.str(), HasSubstr("\x1b[32m"));
  std::string text = coloured.out.str();
  for (size_t escape; (escape = text.find('\x1b')) != std::string::npos;) {
    text.erase(escape, text.find('m', escape) - escape + 1);
  }
  EXPECT_EQ(text, plain.out.str());
}

TEST(Generate, PromptFromFileOrInput) {
  const TempFolder folder;
  const auto echoed = [&](GenerateOptions from, const std::string& input) {
    FakeRun run;
    run.in.str(input);
    run.engine_options.script = answer("!");
    from.echo = true;
    EXPECT_EQ(run_generate(from, run.context), kExitOk);
    return run.out.str();
  };
  GenerateOptions file = options("");
  file.prompt.reset();
  file.prompt_file = folder.write("prompt", "from a file");
  EXPECT_EQ(echoed(file, ""), "from a file!\n");
  file.prompt_file = "-";
  EXPECT_EQ(echoed(file, "from\ninput"), "from\ninput!\n");
  EXPECT_EQ(echoed(options("-"), "dash"), "dash!\n");
  file.prompt_file.reset();
  EXPECT_EQ(echoed(file, "piped"), "piped!\n");
}

TEST(Generate, RefusesPromptsThatCannotBe) {
  FakeRun run;
  const auto refused = [&](const GenerateOptions& bad) {
    try {
      run_generate(bad, run.context);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refused(options("")), HasSubstr("the prompt is empty"));
  GenerateOptions both = options("a");
  both.prompt_file = "b";
  EXPECT_THAT(refused(both), HasSubstr("--prompt-file"));
  GenerateOptions none = options("");
  none.prompt.reset();
  run.context.in_is_terminal = true;
  EXPECT_THAT(refused(none), HasSubstr("no prompt"));
  none.prompt_file = "/no/such/file";
  EXPECT_THAT(refused(none), HasSubstr("/no/such/file: No such file"));
  none.prompt_file = "/";
  EXPECT_THAT(refused(none), HasSubstr("is a directory"));
  EXPECT_EQ(run.seen.engines, 0);
  EXPECT_THAT(refused(options(std::string(600, 'x'))), HasSubstr("601 tokens"));
}

TEST(Generate, JsonHoldsEverything) {
  FakeRun run;
  run.engine_options.script = answer("text");
  GenerateOptions as_json = options("q");
  as_json.json = true;
  as_json.sampling.logprobs = 1;
  as_json.engine.seed = 17;
  EXPECT_EQ(run_generate(as_json, run.context), kExitOk);
  ASSERT_EQ(run.lines().size(), 1u);
  const json object = json::parse(run.out.str());
  EXPECT_EQ(object["prompt"], "q");
  EXPECT_EQ(object["text"], "text");
  EXPECT_EQ(object["finish_reason"], "stop");
  EXPECT_EQ(object["seed"], 17);
  EXPECT_EQ(object["tokens"].size(), 4u);
  EXPECT_EQ(object["usage"]["completion_tokens"], 4);
  EXPECT_EQ(object["logprobs"].size(), 4u);
  EXPECT_EQ(object["speculation"]["generation_tokens"], 4);
}

TEST(Generate, ALimitEndsWithLength) {
  FakeRun run;
  run.engine_options.script = answer(std::string(400, 'a'));
  GenerateOptions limited = options("q");
  limited.json = true;
  EXPECT_EQ(run_generate(limited, run.context), kExitOk);
  EXPECT_EQ(json::parse(run.out.str())["usage"]["completion_tokens"], 256) << "the default";
  EXPECT_EQ(json::parse(run.out.str())["finish_reason"], "length");
}

TEST(Generate, AnInterruptEndsItInOrder) {
  FakeRun run;
  run.engine_options.script = answer(std::string(400, 'a'));
  run.interrupt = 2;
  EXPECT_EQ(run_generate(options("q"), run.context), 130);
  EXPECT_EQ(run.seen.cancelled, 1);
  EXPECT_TRUE(run.seen.ended);
}

TEST(Generate, AFailedRequestIsAnError) {
  FakeRun run;
  run.engine_options.breaks = [](const auto&) { return true; };
  EXPECT_THROW(run_generate(options("q"), run.context), Error);
}

TEST(Generate, NotBeingAbleToWriteIsAnError) {
  FakeRun run;
  run.out.setstate(std::ios::badbit);
  EXPECT_THROW(run_generate(options("q"), run.context), Error);
}

}  // namespace
}  // namespace convoke
