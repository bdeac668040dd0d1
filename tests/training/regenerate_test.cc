#include "training/data/regenerate.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "kernels/check.h"
#include "runtime/sampling_params.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using testing::FakeEngine;
using testing::FakeEngineOptions;
using testing::FakeRun;
using ::testing::HasSubstr;
using testing::TempFolder;

using Sequence = std::vector<int32_t>;

std::vector<Sequence> list(const TokenCorpus& corpus) {
  std::vector<Sequence> sequences;
  for (int64_t i = 0; i < corpus.size(); ++i) {
    const auto tokens = corpus.sequence(i);
    sequences.emplace_back(tokens.begin(), tokens.end());
  }
  return sequences;
}

/// `count` prompts of 3 to 12 tokens, each its own.
TokenCorpus prompts(int count) {
  TokenCorpus corpus;
  for (int i = 0; i < count; ++i) {
    Sequence tokens{int32_t('a' + i / 26), int32_t('a' + i % 26)};
    tokens.resize(size_t(3 + i % 10), 'x');
    corpus.add(tokens);
  }
  return corpus;
}

/// A regeneration with a fake engine and a journal of its own.
struct Job {
  TempFolder folder;
  TokenCorpus given = prompts(40);
  RegenerateOptions options;
  FakeEngineOptions engine_options;
  int submitted = 0, cancelled = 0, most_in_flight = 0;

  Job() {
    options.prompt_tokens = 8;
    options.sequence_length = 40;
    options.temperatures = {0.0f, 0.7f, 1.0f};
    options.seed = 3;
    options.journal = folder / "journal.jsonl";
    options.max_num_seqs = 4;
  }
  TokenCorpus run() {
    FakeEngine engine(engine_options);
    struct Count {
      Job& job;
      FakeEngine& engine;
      ~Count() {
        job.submitted = engine.submitted();
        job.cancelled = engine.cancelled();
        job.most_in_flight = engine.most_in_flight();
      }
    } count{*this, engine};
    return regenerate(engine, given, options);
  }
  std::string complaint(ErrorKind kind = ErrorKind::kUsage) {
    try {
      run();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind) << error.what();
      return error.what();
    }
    ADD_FAILURE() << "nothing was wrong";
    return "";
  }
  std::string journal() const { return TempFolder::read(options.journal); }
  std::multiset<std::string> lines() const {
    const auto list = FakeRun::split(journal());
    return {list.begin(), list.end()};
  }
};

TEST(Regenerate, ContinuesEveryPrompt) {
  Job job;
  const auto corpus = job.run();
  ASSERT_EQ(corpus.size(), 40);
  const int32_t eos = testing::FakeTokenizer().eos_id();
  int ended = 0;
  for (int64_t i = 0; i < 40; ++i) {
    const auto tokens = corpus.sequence(i);
    const auto given = job.given.sequence(i).first(std::min<size_t>(8, size_t(3 + i % 10)));
    EXPECT_TRUE(std::equal(given.begin(), given.end(), tokens.begin())) << i;
    EXPECT_GT(tokens.size(), given.size());
    EXPECT_TRUE(tokens.size() == 40 || tokens.back() == eos) << i;
    EXPECT_LE(tokens.size(), 40u);
    EXPECT_EQ(std::ranges::count(tokens, eos), tokens.back() == eos ? 1 : 0);
    ended += tokens.back() == eos ? 1 : 0;
  }
  EXPECT_GT(ended, 5);
  EXPECT_LT(ended, 40);
  EXPECT_EQ(job.most_in_flight, 8);
}

/// The engine's own answers, one request at a time.
TEST(Regenerate, AsksForWhatItSays) {
  Job job;
  const auto sequences = list(job.run());
  FakeEngine engine;
  for (int64_t i = 0; i < 40; ++i) {
    const auto given = job.given.sequence(i).first(std::min<size_t>(8, size_t(3 + i % 10)));
    SubmitRequest request{1, {given.begin(), given.end()}, {}};
    request.sampling.temperature = job.options.temperatures[size_t(i % 3)];
    request.sampling.seed = derive_seed(3, std::to_string(i));
    request.sampling.max_tokens = 40 - int(given.size());
    engine.submit(request);
    Sequence expected = request.prompt;
    while (true) {
      const auto output = engine.receive(Clock::now());
      for (const OutputToken& token : output->tokens) expected.push_back(token.token);
      if (output->finish == FinishReason::kNone) continue;
      if (output->finish == FinishReason::kStop) expected.push_back(output->stop_token);
      break;
    }
    EXPECT_EQ(sequences[size_t(i)], expected) << i;
  }
}

TEST(Regenerate, JournalHasEverySequenceAsALineOfTrainingText) {
  Job job;
  const auto sequences = list(job.run());
  std::set<int64_t> ids;
  for (const std::string& line : job.lines()) {
    const auto parsed = nlohmann::json::parse(line);
    const int64_t id = parsed["id"];
    EXPECT_TRUE(ids.insert(id).second);
    EXPECT_FLOAT_EQ(parsed["temperature"], job.options.temperatures[size_t(id % 3)]);
    EXPECT_EQ(parsed["seed"], derive_seed(3, std::to_string(id)));
    EXPECT_EQ(parse_training_line(line, 300, nullptr, "x").tokens, sequences[size_t(id)]);
  }
  EXPECT_EQ(ids.size(), 40u);
}

TEST(Regenerate, OrderOfFinishingDoesNotMatter) {
  Job first;
  const auto expected = list(first.run());
  for (const uint64_t grouping : {1, 2, 3}) {
    Job job;
    job.engine_options.grouping = grouping;
    job.engine_options.pause_every = 3;
    job.options.max_num_seqs = int(grouping) * 5;
    EXPECT_EQ(list(job.run()), expected);
    EXPECT_EQ(job.lines(), first.lines());
    EXPECT_NE(job.journal(), first.journal());
  }
}

TEST(Regenerate, SeedsMatter) {
  Job job, other_seed;
  other_seed.options.seed = 4;
  const auto sequences = list(job.run()), others = list(other_seed.run());
  int equal = 0;
  for (size_t i = 0; i < 40; ++i) equal += sequences[i] == others[i] ? 1 : 0;
  EXPECT_LT(equal, 4);  // some end at once
}

TEST(Regenerate, GoesOnWhereItWasKilled) {
  Job whole;
  const auto expected = list(whole.run());
  const std::string journal = whole.journal();
  // In the middle of lines, at their very ends, and just before the LF.
  std::vector<size_t> cuts{0, 1, journal.size() / 3, journal.size() / 2, journal.size() - 1};
  const size_t end_of_line = journal.find('\n', journal.size() / 2);
  cuts.insert(cuts.end(), {end_of_line, end_of_line + 1});
  for (const size_t cut : cuts) {
    Job job;
    job.engine_options.grouping = 5;
    job.folder.write("journal.jsonl", journal.substr(0, cut));
    const auto kept = std::ranges::count(journal.substr(0, cut), '\n');
    int64_t first_done = -1, last_done = 0, tokens = 0;
    job.options.progress = [&](int64_t done, int64_t total, int64_t made, double seconds) {
      if (first_done < 0) first_done = done;
      EXPECT_GE(done, last_done);
      EXPECT_EQ(total, 40);
      EXPECT_GE(seconds, 0);
      last_done = done;
      tokens = made;
    };
    EXPECT_EQ(list(job.run()), expected) << cut;
    EXPECT_EQ(job.lines(), whole.lines()) << cut;
    EXPECT_EQ(job.submitted, 40 - kept);
    EXPECT_EQ(first_done, kept);
    EXPECT_EQ(last_done, 40);
    EXPECT_EQ(tokens > 0, kept < 40);
  }
}

TEST(Regenerate, SecondRunHasNothingToDo) {
  Job job;
  const auto expected = list(job.run());
  const std::string journal = job.journal();
  EXPECT_EQ(list(job.run()), expected);
  EXPECT_EQ(job.submitted, 0);
  EXPECT_EQ(job.journal(), journal);
}

TEST(Regenerate, EngineFailureKeepsWhatIsDone) {
  Job whole;
  const auto expected = list(whole.run());
  Job job;
  job.engine_options.fail_after = 300;
  const std::string said = job.complaint(ErrorKind::kPeer);
  EXPECT_THAT(said, HasSubstr("shard 1 of replica 0"));
  const size_t kept = job.lines().size();
  EXPECT_THAT(said, HasSubstr(fmt::format("({} of 40 sequences are done and kept in {};", kept,
                                          job.options.journal.string())));
  EXPECT_GT(kept, 0u);
  EXPECT_LT(kept, 40u);
  job.engine_options.fail_after = -1;
  EXPECT_EQ(list(job.run()), expected);
  EXPECT_EQ(job.submitted, int(40 - kept));
}

TEST(Regenerate, FailedRequestEndsTheRun) {
  Job job;
  const Sequence bad(job.given.sequence(20).begin(), job.given.sequence(20).begin() + 3);
  job.engine_options.breaks = [&](const Sequence& prompt) { return prompt == bad; };
  EXPECT_THAT(job.complaint(ErrorKind::kResource),
              HasSubstr("sequence 20 failed: no room in the cache"));
  EXPECT_GT(job.cancelled, 0);  // the engine is left idle
  EXPECT_GT(job.lines().size(), 0u);
  job.engine_options.breaks = nullptr;
  EXPECT_EQ(job.run().size(), 40);
}

TEST(Regenerate, InterruptIsOrderly) {
  Job whole;
  const auto expected = list(whole.run());
  Job job;
  int questions = 0;
  job.options.interrupted = [&] { return ++questions > 250; };
  EXPECT_THAT(job.complaint(ErrorKind::kCancelled), HasSubstr("regeneration: interrupted ("));
  EXPECT_EQ(job.cancelled, 8);
  const size_t kept = job.lines().size();
  EXPECT_GT(kept, 0u);
  EXPECT_LT(kept, 40u);
  job.options.interrupted = nullptr;
  EXPECT_EQ(list(job.run()), expected);
  EXPECT_EQ(job.lines(), whole.lines());
}

TEST(Regenerate, JournalOfAnotherRunIsRefused) {
  const auto changed = [](const auto& change) {
    Job job;
    job.run();
    const std::string journal = job.journal();
    change(job);
    const std::string said = job.complaint();
    EXPECT_EQ(job.submitted, 0);
    EXPECT_EQ(job.journal(), journal) << "the file was touched";
    return said;
  };
  const auto expected =
      HasSubstr("journal.jsonl:1: was not written with these prompts and options");
  EXPECT_THAT(changed([](Job& job) { job.options.seed = 4; }), expected);
  EXPECT_THAT(changed([](Job& job) { job.options.temperatures = {0.5f}; }), expected);
  const auto any_line = HasSubstr("was not written with these prompts and options");
  EXPECT_THAT(changed([](Job& job) { job.given = prompts(5); }), any_line);
  EXPECT_THAT(changed([](Job& job) { job.options.prompt_tokens = 20; }), any_line);
  EXPECT_THAT(changed([](Job& job) { job.options.sequence_length = 60; }), any_line);
  EXPECT_THAT(changed([](Job& job) { job.options.sequence_length = 20; }), any_line);
  EXPECT_THAT(changed([](Job& job) { job.given.tokens[0] = 'z'; }), any_line);
}

TEST(Regenerate, HostileJournalIsRefused) {
  Job whole;
  whole.run();
  const auto good = FakeRun::split(whole.journal());
  const auto parsed = nlohmann::json::parse(good[0]);
  const auto with = [&](const char* key, const nlohmann::json& value) {
    auto line = parsed;
    line[key] = value;
    return line.dump();
  };
  const std::vector<std::string> bad{"",
                                     "x",
                                     "[1]",
                                     "{}",
                                     "{\"id\": 1}",
                                     "\xFF",
                                     std::string(100000, '['),
                                     with("id", -1),
                                     with("id", 40),
                                     with("id", 1.5),
                                     with("id", "0"),
                                     with("id", INT64_MAX),
                                     with("id", UINT64_MAX),
                                     with("seed", 1),
                                     with("temperature", 0.1),
                                     with("tokens", {1, 2}),
                                     with("tokens", "x"),
                                     with("tokens", {1.5}),
                                     with("tokens", {-1}),
                                     good[1] + " "};
  for (const std::string& line : bad) {
    Job job;
    const std::string journal = good[0] + "\n" + line + "\n" + good[2] + "\n";
    job.folder.write("journal.jsonl", journal);
    EXPECT_THAT(job.complaint(), HasSubstr("journal.jsonl:2: was not written")) << line;
    EXPECT_EQ(job.journal(), journal);
  }
  Job job;
  job.folder.write("journal.jsonl", good[0] + "\n" + good[0] + "\n");
  EXPECT_THAT(job.complaint(), HasSubstr("journal.jsonl:2: sequence"));
}

TEST(Regenerate, RefusesWrongOptions) {
  const auto with = [](const auto& change) {
    Job job;
    change(job.options);
    const std::string said = job.complaint();
    EXPECT_FALSE(std::filesystem::exists(job.folder / "journal.jsonl"));
    return said;
  };
  using Options = RegenerateOptions;
  EXPECT_THAT(with([](Options& o) { o.prompt_tokens = 0; }),
              HasSubstr("--regenerate-prompt-tokens"));
  EXPECT_THAT(with([](Options& o) { o.sequence_length = 8; }), HasSubstr("leave no room"));
  EXPECT_THAT(with([](Options& o) { o.sequence_length = 513; }),
              HasSubstr("513 is more than the model's context of 512"));
  EXPECT_THAT(with([](Options& o) { o.temperatures = {}; }),
              HasSubstr("--regenerate-temperatures"));
  EXPECT_THAT(with([](Options& o) { o.temperatures = {1, -1}; }), HasSubstr("temperature"));
  EXPECT_THAT(with([](Options& o) { o.temperatures = {std::numeric_limits<float>::quiet_NaN()}; }),
              HasSubstr("temperature"));
  EXPECT_THAT(with([](Options& o) { o.journal = ""; }), HasSubstr("no file"));
}

TEST(Regenerate, NoPromptsNoSequences) {
  Job job;
  job.given = {};
  EXPECT_EQ(job.run().size(), 0);
  EXPECT_EQ(job.journal(), "");
}

// --- the real engine ----------------------------------------------------------------------------

EngineOptions demo_engine() {
  EngineOptions options;
  options.model = std::filesystem::path(CONVOKE_SOURCE_DIR) / "demo/model";
  options.threads = 1;
  options.max_num_seqs = 3;
  options.max_model_len = 128;
  options.drafter = DrafterSpec::parse("none");
  options.chatter = false;
  return options;
}

/// Prompts of real text with the demo model's tokens.
TokenCorpus demo_prompts(const Tokenizer& tokenizer) {
  TokenCorpus corpus;
  for (const char* text : {"Once upon a time", "def add(a, b):\n", "The lead", "{\"a\": 1,",
                           "She said that she would not come to the house again because of",
                           "for i in range(", "It was"}) {
    corpus.add(tokenizer.encode(text));
  }
  return corpus;
}

/// What the engine answers when nothing else is running.
Sequence alone(Engine& engine, std::span<const int32_t> prompt, float temperature, uint64_t seed,
               int length) {
  SubmitRequest request{77, {prompt.begin(), prompt.end()}, {}};
  request.sampling.temperature = temperature;
  request.sampling.seed = seed;
  request.sampling.max_tokens = length - int(prompt.size());
  engine.submit(request);
  Sequence tokens = request.prompt;
  while (true) {
    const auto output = engine.receive(Clock::now() + std::chrono::seconds(60));
    if (!output) throw_error(ErrorKind::kTimeout, "no token for 60 s");
    for (const OutputToken& token : output->tokens) tokens.push_back(token.token);
    if (output->finish == FinishReason::kNone) continue;
    if (output->finish == FinishReason::kStop) tokens.push_back(output->stop_token);
    return tokens;
  }
}

TEST(RegenerateDemo, TokensAreTheEnginesOwn) {
  const auto engine = start_engine(demo_engine());
  const TempFolder folder;
  const auto given = demo_prompts(engine->tokenizer());
  RegenerateOptions options;
  options.prompt_tokens = 6;
  options.sequence_length = 30;
  options.temperatures = {0.0f, 1.0f};
  options.seed = 11;
  options.journal = folder / "journal.jsonl";
  options.max_num_seqs = 3;
  const auto sequences = list(regenerate(*engine, given, options));
  ASSERT_EQ(sequences.size(), size_t(given.size()));
  for (int64_t i = 0; i < given.size(); ++i) {
    const auto prompt = given.sequence(i).first(std::min<size_t>(6, given.sequence(i).size()));
    EXPECT_EQ(sequences[size_t(i)], alone(*engine, prompt, i % 2 == 0 ? 0.0f : 1.0f,
                                          derive_seed(11, std::to_string(i)), 30))
        << i;
    EXPECT_EQ(sequences[size_t(i)][0], *engine->tokenizer().bos());
  }

  // Killed in the middle of a line, and interrupted in between, the set of lines is the same.
  const std::string journal = TempFolder::read(options.journal);
  folder.write("journal.jsonl", journal.substr(0, journal.size() / 2));
  int questions = 0;
  options.interrupted = [&] { return ++questions > 12; };
  EXPECT_THROW(regenerate(*engine, given, options), Error);
  options.interrupted = nullptr;
  EXPECT_EQ(list(regenerate(*engine, given, options)), sequences);
  auto lines = FakeRun::split(journal);
  auto again = FakeRun::split(TempFolder::read(options.journal));
  std::ranges::sort(lines);
  std::ranges::sort(again);
  EXPECT_EQ(again, lines);
}

TEST(RegenerateDemo, AnotherDrafterMakesTheSameText) {
  std::vector<std::vector<Sequence>> results;
  for (const char* drafter : {"none", "ngram"}) {
    EngineOptions engine_options = demo_engine();
    engine_options.drafter = DrafterSpec::parse(drafter);
    const auto engine = start_engine(engine_options);
    const TempFolder folder;
    RegenerateOptions options;
    options.prompt_tokens = 10;
    options.sequence_length = 40;
    options.temperatures = {1.0f, 0.0f};
    options.journal = folder / "journal.jsonl";
    options.max_num_seqs = 3;
    results.push_back(list(regenerate(*engine, demo_prompts(engine->tokenizer()), options)));
  }
  EXPECT_EQ(results[0], results[1]);
}

}  // namespace
}  // namespace convoke
