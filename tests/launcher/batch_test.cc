#include "launcher/batch.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <nlohmann/json.hpp>
#include <set>

#include "launcher/batch_lines.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using nlohmann::json;
using testing::FakeRun;
using ::testing::HasSubstr;
using ::testing::Not;
using testing::TempFolder;

std::string request(const std::string& id, const std::string& prompt,
                    const std::string& more = R"(, "max_tokens": 12)") {
  return R"({"custom_id": ")" + id + R"(", "method": "POST", "url": "/v1/completions", "body": )" +
         R"({"model": "model", "prompt": )" + json(prompt).dump() + more + "}}";
}

/// Some of everything: plain requests, stop strings, several choices, errors of each kind.
std::string mixed_input() {
  std::string text;
  for (int i = 0; i < 12; ++i) {
    text += request(fmt::format("id-{}", i), fmt::format("prompt {}", i)) + "\n";
  }
  text += "{broken\n\n";
  text += request("n", "several", R"(, "n": 3, "max_tokens": 6, "echo": true)") + "\r\n";
  text += request("id-3", "the same id again") + "\n";
  text += "{broken\n";
  text += request("id-3", "and again") + "\n";
  text += R"({"custom_id": "chat", "method": "POST", "url": "/v1/chat/completions", "body": {}})"
          "\n";
  text += request("bad", "x", R"(, "temperature": "hot")") + "\n";
  text += request("stop", "x", R"(, "stop": ["e", "a"], "max_tokens": 60)") + "\n";
  text += request("logprobs", "x", R"(, "logprobs": 2, "max_tokens": 3)") + "\n";
  text += R"({"no": "id"})"
          "\n";
  text += request("last", "no newline at the end");
  return text;
}

struct Job {
  TempFolder folder;
  BatchOptions options;

  explicit Job(const std::string& input = mixed_input()) {
    options.engine.model = "some/model";
    options.engine.max_num_seqs = 4;
    options.engine.drafter.method = "ngram";
    options.input = folder.write("in.jsonl", input);
    options.output = folder / "out.jsonl";
    options.quiet = true;
  }
  int run(FakeRun& run) { return run_batch(options, run.context); }
  std::string output() const { return TempFolder::read(options.output); }
  std::multiset<std::string> lines() const {
    const auto list = FakeRun::split(output());
    return {list.begin(), list.end()};
  }
  std::map<std::string, json> by_id() const {
    std::map<std::string, json> result;
    for (const std::string& line : lines()) {
      const json parsed = json::parse(line);
      if (parsed["custom_id"].is_string()) result[parsed["custom_id"]] = parsed;
    }
    return result;
  }
};

TEST(Batch, AnswersEveryLine) {
  Job job;
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  EXPECT_TRUE(run.seen.ended);
  const auto lines = job.lines();
  EXPECT_EQ(lines.size(), 23u);
  EXPECT_TRUE(job.output().ends_with('\n'));
  int malformed = 0, duplicates = 0;
  for (const std::string& line : lines) {
    const json parsed = json::parse(line);
    malformed += parsed["custom_id"].is_null() ? 1 : 0;
    duplicates += parsed["error"].is_object() && parsed["error"]["code"] == "duplicate_custom_id";
  }
  EXPECT_EQ(malformed, 3);
  EXPECT_EQ(duplicates, 2);
  const auto results = job.by_id();
  const json& several = results.at("n")["response"]["body"]["choices"];
  ASSERT_EQ(several.size(), 3u);
  std::set<std::string> texts;
  for (const json& choice : several) {
    texts.insert(choice["text"]);
    EXPECT_THAT(choice["text"].get<std::string>(), ::testing::StartsWith("several"));
  }
  EXPECT_EQ(texts.size(), 3u) << "each choice has a seed of its own";
  EXPECT_THAT(results.at("chat")["error"]["message"].get<std::string>(),
              HasSubstr("/v1/completions"));
  EXPECT_THAT(results.at("bad")["error"]["message"].get<std::string>(),
              HasSubstr("line 20: temperature"));
  EXPECT_EQ(results.at("logprobs")["response"]["body"]["choices"][0]["logprobs"]["tokens"].size(),
            3u);
  const json& stopped = results.at("stop")["response"]["body"];
  EXPECT_THAT(stopped["choices"][0]["text"].get<std::string>(), Not(HasSubstr("e")));
  EXPECT_EQ(stopped["choices"][0]["finish_reason"], "stop");
  EXPECT_EQ(results.at("id-0")["response"]["body"]["usage"]["prompt_tokens"], 9);
}

TEST(Batch, LinesDependOnNothingButTheRequests) {
  Job reference;
  FakeRun plain;
  reference.options.engine.drafter.method = "none";
  EXPECT_EQ(reference.run(plain), kExitOk);
  for (uint64_t grouping = 1; grouping <= 5; ++grouping) {
    Job job;
    FakeRun run;
    run.engine_options.grouping = grouping;
    run.engine_options.pause_every = int(grouping);
    if (grouping == 1) run.engine_options.pause_every = 0;
    run.engine_options.max_num_seqs = int(grouping);
    job.options.engine.max_num_seqs = int(grouping);
    EXPECT_EQ(job.run(run), kExitOk);
    EXPECT_EQ(job.lines(), reference.lines());
  }
}

TEST(Batch, KeepsFewRequestsInFlight) {
  std::string input;
  for (int i = 0; i < 300; ++i) input += request(std::to_string(i), "p") + "\n";
  Job job(input);
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  EXPECT_EQ(run.seen.submitted, 300);
  EXPECT_LE(run.seen.most_in_flight, 16);
}

/// Cuts the output of an undisturbed run after each of `lengths` bytes and completes it.
void expect_resumes(const std::string& input,
                    const std::function<bool(const std::string& whole, size_t length)>& tried) {
  Job job(input);
  FakeRun undisturbed;
  EXPECT_EQ(job.run(undisturbed), kExitOk);
  const std::string whole = job.output();
  const auto expected = job.lines();
  job.options.resume = true;
  for (size_t length = 0; length <= whole.size(); ++length) {
    if (!tried(whole, length)) continue;
    job.folder.write("out.jsonl", whole.substr(0, length));
    FakeRun run;
    run.engine_options.grouping = length;
    ASSERT_EQ(job.run(run), kExitOk) << length;
    ASSERT_EQ(job.lines(), expected) << "cut after " << length << " bytes";
    if (length == whole.size()) {
      EXPECT_EQ(run.seen.submitted, 0);
    }
  }
}

TEST(Batch, ResumesFromEveryByte) {
  const std::string few = request("a", "x") + "\n{broken\n" + request("a", "again") +
                          "\n{broken\n" + request("n", "y", R"(, "n": 2, "max_tokens": 3)") + "\n" +
                          request("bad", "z", R"(, "n": 0)");
  expect_resumes(few, [](const std::string&, size_t) { return true; });
}

TEST(Batch, ResumesFromTheEndOfEveryLine) {
  expect_resumes(mixed_input(), [](const std::string& whole, size_t length) {
    const bool before = length < whole.size() && whole[length] == '\n';
    const bool after = length > 0 && whole[length - 1] == '\n';
    const bool second = length > 1 && whole[length - 2] == '\n';
    return before || after || second || length == 0 || length % 257 == 0;
  });
}

TEST(Batch, ResumesAfterAFailureAtAnyPoint) {
  Job reference;
  FakeRun undisturbed;
  EXPECT_EQ(reference.run(undisturbed), kExitOk);
  const auto expected = reference.lines();
  bool failed = true;
  for (int outputs = 0; failed; outputs += 3) {
    Job job;
    FakeRun broken;
    broken.engine_options.fail_after = outputs;
    failed = false;
    try {
      job.run(broken);
    } catch (const Error& error) {
      failed = true;
      EXPECT_EQ(error.kind(), ErrorKind::kPeer);
      EXPECT_THAT(error.what(), HasSubstr("is silent"));
      EXPECT_THAT(error.what(), HasSubstr("--resume"));
    }
    const auto kept = job.lines();
    EXPECT_TRUE(std::ranges::includes(expected, kept));
    job.options.resume = true;
    FakeRun again;
    again.engine_options.grouping = uint64_t(outputs);
    ASSERT_EQ(job.run(again), kExitOk);
    ASSERT_EQ(job.lines(), expected) << "failed after " << outputs << " outputs";
  }
}

TEST(Batch, AnotherOrderOfTheInputResumesTheSame) {
  std::string input, reversed;
  for (int i = 0; i < 8; ++i) {
    const std::string line = request(fmt::format("{}", i), fmt::format("p{}", i)) + "\n";
    input += line;
    reversed = line + reversed;
  }
  Job reference(input);
  FakeRun first;
  EXPECT_EQ(reference.run(first), kExitOk);
  const auto list = FakeRun::split(reference.output());
  Job job(reversed);
  job.folder.write("out.jsonl", list[0] + "\n" + list[1] + "\n");
  job.options.resume = true;
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  EXPECT_EQ(run.seen.submitted, 6);
  EXPECT_EQ(job.lines(), reference.lines());
}

TEST(Batch, RefusesToOverwriteOrMix) {
  Job job;
  job.folder.write("out.jsonl", "something\n");
  FakeRun run;
  EXPECT_THROW(job.run(run), Error);
  job.options.resume = true;
  EXPECT_THROW(
      {
        try {
          job.run(run);
        } catch (const Error& error) {
          EXPECT_THAT(error.what(), HasSubstr("line 1 of"));
          throw;
        }
      },
      Error);
  EXPECT_EQ(run.seen.engines, 0) << "before a model is loaded";
  EXPECT_EQ(job.output(), "something\n");
}

TEST(Batch, RefusesTheSameFileForBoth) {
  Job job;
  job.options.output = job.options.input;
  job.options.resume = true;
  const std::string before = TempFolder::read(job.options.input);
  FakeRun run;
  EXPECT_THROW(job.run(run), Error);
  EXPECT_EQ(TempFolder::read(job.options.input), before);
}

TEST(Batch, AFullDiskEndsTheJobWithOneError) {
  Job job;
  job.options.output = "/dev/full";
  FakeRun run;
  try {
    job.run(run);
    FAIL() << "succeeded";
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kResource);
    EXPECT_THAT(error.what(), HasSubstr("No space left on device"));
    EXPECT_THAT(error.what(), HasSubstr("--resume"));
  }
}

TEST(Batch, RequestsThatFailAreNotAnswered) {
  Job job;
  FakeRun run;
  run.engine_options.breaks = [](const std::vector<int32_t>& prompt) { return prompt.size() == 9; };
  EXPECT_EQ(job.run(run), kExitFailure);
  EXPECT_THAT(run.err.str(), HasSubstr("request 'id-1' failed: no room in the cache"));
  EXPECT_FALSE(job.by_id().contains("id-1"));
  job.options.resume = true;
  FakeRun again;
  EXPECT_EQ(job.run(again), kExitOk);
  Job reference;
  FakeRun undisturbed;
  EXPECT_EQ(reference.run(undisturbed), kExitOk);
  EXPECT_EQ(job.lines(), reference.lines());
}

TEST(Batch, PromptsThatDoNotFitBecomeErrorLines) {
  Job job(request("long", std::string(600, 'x')) + "\n" + request("edge", std::string(510, 'x')) +
          "\n" + R"({"custom_id": "id", "url": "/v1/completions", "body": {"prompt": [5, 9999]}})");
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  const auto results = job.by_id();
  EXPECT_THAT(results.at("long")["error"]["message"].get<std::string>(),
              HasSubstr("601 tokens, which leaves no room in the model's context of 512"));
  EXPECT_THAT(results.at("id")["error"]["message"].get<std::string>(),
              HasSubstr("token 9999 is outside the vocabulary"));
  const json& edge = results.at("edge")["response"]["body"];
  EXPECT_LE(edge["usage"]["completion_tokens"], 1) << "max_tokens is cut to the context";
}

TEST(Batch, SamplingOutOfRangeBecomesAnErrorLine) {
  Job job(request("cold", "x", R"(, "temperature": -1)") + "\n" + request("fine", "x"));
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  EXPECT_THAT(job.by_id().at("cold")["error"]["message"].get<std::string>(),
              HasSubstr("temperature"));
  EXPECT_TRUE(job.by_id().at("fine")["error"].is_null());
}

TEST(Batch, FlagsFillInOrOverride) {
  const std::string input = request("a", "x", R"(, "max_tokens": 5, "ignore_eos": true)") + "\n" +
                            request("b", "y", R"(, "ignore_eos": true)");
  const auto tokens = [&](bool override_bodies) {
    Job job(input);
    job.options.sampling.max_tokens = 9;
    job.options.override_bodies = override_bodies;
    FakeRun run;
    EXPECT_EQ(job.run(run), kExitOk);
    const auto results = job.by_id();
    const auto count = [&](const char* id) {
      return results.at(id)["response"]["body"]["usage"]["completion_tokens"].get<int>();
    };
    return std::pair(count("a"), count("b"));
  };
  EXPECT_EQ(tokens(false), std::pair(5, 9));
  EXPECT_EQ(tokens(true), std::pair(9, 9));
}

TEST(Batch, WarnsOnceAboutEachUnknownField) {
  Job job(
      request("a", "x", R"(, "guided": 1)") + "\n" + request("b", "x", R"(, "guided": 1)") + "\n" +
      R"({"custom_id": "c", "url": "/v1/completions", "body": {"prompt": "x", "model": "gpt"}})");
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  const std::string err = run.err.str();
  EXPECT_EQ(err.find("'guided'"), err.rfind("'guided'"));
  EXPECT_THAT(err, HasSubstr("'guided' is not known"));
  EXPECT_THAT(err, HasSubstr("model 'gpt' are answered by 'model'"));
}

TEST(Batch, AnInterruptKeepsWhatIsDone) {
  Job reference;
  FakeRun undisturbed;
  EXPECT_EQ(reference.run(undisturbed), kExitOk);
  Job job;
  FakeRun run;
  run.engine_options.breaks = [&](const std::vector<int32_t>& prompt) {
    if (prompt.size() == 10) run.interrupt = 2;  // "prompt 10": somewhere in the middle
    return false;
  };
  EXPECT_EQ(job.run(run), 130);
  EXPECT_THAT(run.err.str(), HasSubstr("--resume"));
  EXPECT_GT(run.seen.cancelled, 0);
  EXPECT_TRUE(run.seen.ended);
  EXPECT_LT(job.lines().size(), reference.lines().size());
  job.options.resume = true;
  FakeRun again;
  EXPECT_EQ(job.run(again), kExitOk);
  EXPECT_EQ(job.lines(), reference.lines());
}

TEST(Batch, EmptyInputGivesEmptyOutput) {
  for (const char* input : {"", "\n\n", "\xEF\xBB\xBF"}) {
    Job job(input);
    FakeRun run;
    EXPECT_EQ(job.run(run), kExitOk);
    EXPECT_EQ(job.output(), "");
  }
}

TEST(Batch, ReportsInWordsAndAsJson) {
  Job job;
  job.options.quiet = false;
  FakeRun run;
  EXPECT_EQ(job.run(run), kExitOk);
  EXPECT_THAT(run.out.str(), HasSubstr("16 requests answered, 7 error lines"));
  EXPECT_THAT(run.out.str(), HasSubstr("mean acceptance length"));
  EXPECT_THAT(run.err.str(), HasSubstr("batch: 23/23 requests done (100 %)"));

  Job other;
  other.options.json = true;
  FakeRun as_json;
  EXPECT_EQ(other.run(as_json), kExitOk);
  const json summary = json::parse(as_json.out.str());
  EXPECT_EQ(summary["requests"], 23);
  EXPECT_EQ(summary["answered"], 16);
  EXPECT_EQ(summary["error_lines"], 7);
  EXPECT_GT(summary["speculation"]["mean_acceptance_length"], 1.0);
}

TEST(Batch, NamesAnInputThatCannotBeRead) {
  Job job;
  job.options.input = job.folder / "missing.jsonl";
  FakeRun run;
  EXPECT_THROW(job.run(run), Error);
  EXPECT_FALSE(std::filesystem::exists(job.options.output));
  EXPECT_EQ(run.seen.engines, 0);
}

}  // namespace
}  // namespace convoke
