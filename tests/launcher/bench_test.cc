#include "launcher/bench.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "launcher/bench_report.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using nlohmann::json;
using ::testing::ElementsAre;
using testing::FakeRun;
using ::testing::HasSubstr;
using testing::TempFolder;

TEST(Quantile, Interpolates) {
  EXPECT_EQ(quantile({3}, 0.5), 3);
  EXPECT_EQ(quantile({4, 1}, 0.5), 2.5);
  EXPECT_EQ(quantile({3, 1, 2}, 0), 1);
  EXPECT_EQ(quantile({3, 1, 2}, 1), 3);
  EXPECT_EQ(quantile({5, 1, 2, 3, 4}, 0.25), 2);
}

BenchSample sample(double decode_seconds, std::vector<int32_t> tokens) {
  BenchSample result;
  for (const int32_t token : tokens) {
    result.tokens.push_back({});
    result.tokens.back().token = token;
  }
  result.finish = FinishReason::kLength;
  result.stats.output_tokens = int64_t(tokens.size());
  result.stats.queue_seconds = 0.01;
  result.stats.first_token_seconds = 0.11;
  result.stats.total_seconds = 0.11 + decode_seconds;
  result.stats.decode_steps = 2;
  result.stats.target_seconds = decode_seconds;
  return result;
}

TEST(BenchReport, ComparesSumsAndPrompts) {
  const BenchSamples samples = {{{sample(1, {1, 2, 3})}, {sample(3, {4, 5, 6})}},
                                {{sample(0.5, {1, 2, 3})}, {sample(1, {4, 5, 6})}}};
  const BenchReport report = make_bench_report({"none", "x"}, samples, 0);
  EXPECT_DOUBLE_EQ(report.rows[0].tokens_per_second, 1.0);
  EXPECT_DOUBLE_EQ(report.rows[1].tokens_per_second, 4 / 1.5);
  EXPECT_DOUBLE_EQ(report.rows[0].speedup, 1);
  EXPECT_DOUBLE_EQ(report.rows[1].speedup, 4 / 1.5);
  EXPECT_DOUBLE_EQ(report.rows[1].speedup_median, 2.5);
  EXPECT_DOUBLE_EQ(report.rows[1].speedup_low, 2.25);
  EXPECT_NEAR(report.rows[1].first_token_ms, 100, 1e-9);
  EXPECT_EQ(report.rows[1].differing, 0);
}

TEST(BenchReport, TheMedianOfRepeatsCounts) {
  const BenchSamples samples = {{{sample(1, {1, 2}), sample(100, {1, 2}), sample(2, {1, 2})}}};
  EXPECT_DOUBLE_EQ(make_bench_report({"none"}, samples, 0).rows[0].tokens_per_second, 0.5);
}

TEST(BenchReport, FindsOutputsThatDiffer) {
  BenchSample changed = sample(1, {1, 2});
  changed.finish = FinishReason::kStop;
  BenchSample digest = sample(1, {1, 2}), reference = sample(1, {1, 2});
  digest.tokens[1].digest = 5;
  reference.tokens[1].digest = 6;
  const BenchSamples samples = {
      {{reference}}, {{sample(1, {1, 3})}}, {{sample(1, {1, 2, 3})}}, {{changed}}, {{digest}}};
  const BenchReport report = make_bench_report({"none", "a", "b", "c", "d"}, samples, 0);
  for (size_t row = 1; row < 5; ++row) EXPECT_EQ(report.rows[row].differing, 1) << row;
  EXPECT_EQ(bench_json(report)["runs"][1]["identical_to_none"], false);
  EXPECT_THAT(bench_text(report), HasSubstr("1 DIFFER"));
}

TEST(BenchReport, OneTokenOutputsDivideByNothing) {
  BenchSample single = sample(0, {1});
  const BenchReport report = make_bench_report({"none"}, {{{single}}}, 0);
  EXPECT_EQ(report.rows[0].tokens_per_second, 0);
  EXPECT_EQ(report.rows[0].speedup, 1);
}

TEST(BenchReport, FloorIsComparedWithPlainDecoding) {
  BenchReport report = make_bench_report({"none"}, {{{sample(1, {1, 2, 3})}}}, 0);
  EXPECT_EQ(report.floor_ratio(), 0);
  report.floor = FloorReport{50, 800, 1000, {{1, 500, 400}, {8, 600, 450}}};
  EXPECT_DOUBLE_EQ(report.floor_ratio(), 0.8) << "0.4 s a pass, 2 tokens/s";
  const auto written = bench_json(report);
  EXPECT_EQ(written["floor"]["ratio"], 0.8);
  EXPECT_EQ(written["floor"]["rows"][1].dump(), R"({"rows":8,"ms":600.0,"floor_ms":450.0})");
  EXPECT_THAT(bench_text(report), HasSubstr("80 % of its floor"));
  EXPECT_THAT(bench_text(report), HasSubstr("1.20x"));
}

struct Job {
  TempFolder folder;
  BenchOptions options;
  Job() {
    options.engine.model = "some/model";
    std::string prompts;
    for (int i = 0; i < 3; ++i) {
      prompts += R"({"custom_id": ")" + std::to_string(i) +
                 R"(", "url": "/v1/completions", "body": {"prompt": "p)" + std::to_string(i) +
                 R"(", "max_tokens": 20, "ignore_eos": true}})"
                 "\n";
    }
    options.prompts = folder.write("prompts.jsonl", prompts);
    options.drafters = {DrafterSpec::parse("none"), DrafterSpec::parse("ngram")};
  }
};

TEST(Bench, ComparesDraftersInTurn) {
  Job job;
  job.options.json = true;
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  const json report = json::parse(run.out.str());
  EXPECT_EQ(report["prompts"], 3);
  ASSERT_EQ(report["runs"].size(), 2u);
  EXPECT_EQ(report["runs"][0]["drafter"], "none");
  EXPECT_EQ(report["runs"][0]["mean_acceptance_length"], 1.0);
  EXPECT_EQ(report["runs"][1]["identical_to_none"], true);
  EXPECT_GT(report["runs"][1]["speedup"], 1.0);
  EXPECT_GT(report["runs"][1]["mean_acceptance_length"], 1.0);
  EXPECT_EQ(report["runs"][1]["acceptance_by_depth"].size(), 4u);
  EXPECT_EQ(report["floor"]["bandwidth_gb_s"], 50.0);
  EXPECT_EQ(report["floor"]["rows"].size(), 5u);
  // Warm-up n; then (none, ngram), (ngram, none), (none, ngram): who was last begins.
  EXPECT_THAT(run.seen.drafters_used, ElementsAre("ngram", "none", "ngram", "none", "ngram"));
  EXPECT_EQ(run.seen.submitted, 2 + 6);
}

TEST(Bench, PlainDecodingIsAlwaysThere) {
  Job job;
  job.options.drafters = {DrafterSpec::parse("ngram")};
  job.options.floor = false;
  job.options.limit = 1;
  job.options.repeat = 3;
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  EXPECT_EQ(run.seen.options.drafter.method, "none");
  EXPECT_EQ(run.seen.submitted, 2 + 6);
  EXPECT_THAT(run.out.str(), HasSubstr("1 prompts, 3 run(s) each"));
  EXPECT_THAT(run.out.str(), HasSubstr("identical"));
  EXPECT_THAT(run.out.str(), ::testing::Not(HasSubstr("Floor")));
}

TEST(Bench, OutputsThatDifferAreAFailure) {
  Job job;
  FakeRun run;
  run.corrupt_drafter = "ngram";
  EXPECT_EQ(run_bench(job.options, run.context), kExitFailure);
  EXPECT_THAT(run.err.str(), HasSubstr("3 outputs differ"));
}

TEST(Bench, FlagsGoOverThePrompts) {
  Job job;
  job.options.sampling.max_tokens = 4;
  job.options.json = true;
  job.options.drafters = {DrafterSpec::parse("none")};
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  EXPECT_THAT(run.seen.drafters_used, ElementsAre());
}

TEST(Bench, BadPromptsAreNamed) {
  Job job;
  FakeRun run;
  const auto refused = [&](const std::string& text) {
    job.options.prompts = job.folder.write("bad.jsonl", text);
    try {
      run_bench(job.options, run.context);
    } catch (const Error& error) {
      return std::string(error.what());
    }
    return std::string("accepted");
  };
  EXPECT_THAT(refused("\n{x"), HasSubstr("bad.jsonl line 2: not JSON"));
  EXPECT_THAT(refused("\n"), HasSubstr("bad.jsonl has no requests"));
  EXPECT_EQ(run.seen.engines, 0);
}

TEST(Bench, ADrafterThatDoesNotFitIsFoundFirst) {
  Job job;
  FakeRun run;
  run.engine_options.refused_drafters = {"ngram"};
  EXPECT_THROW(run_bench(job.options, run.context), Error);
  EXPECT_LE(run.seen.submitted, 1);
}

}  // namespace
}  // namespace convoke
