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

/// samples[drafter][prompt][repeat]
using Samples = std::vector<std::vector<std::vector<BenchSample>>>;

BenchReport report_of(const std::vector<std::string>& drafters, const Samples& samples) {
  std::vector<DrafterSpec> specs;
  std::vector<BenchMeasurement> measured;
  for (const auto& prompts : samples) measured.push_back({prompts, {}});
  std::vector<const BenchMeasurement*> pointers;
  for (size_t d = 0; d < drafters.size(); ++d) {
    specs.push_back(DrafterSpec::parse(drafters[d]));
    pointers.push_back(&measured[d]);
  }
  BenchReport report;
  report.points.push_back(make_bench_point(specs, pointers, 0, {"first", "second"}));
  report.prompts = int(samples[0].size());
  report.repeats = int(samples[0][0].size());
  return report;
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
  const BenchReport report =
      report_of({"none", "ngram"}, {{{sample(1, {1, 2, 3})}, {sample(3, {4, 5, 6})}},
                                    {{sample(0.5, {1, 2, 3})}, {sample(1, {4, 5, 6})}}});
  const std::vector<BenchRow>& rows = report.points[0].rows;
  EXPECT_DOUBLE_EQ(rows[0].tokens_per_second, 1.0);
  EXPECT_DOUBLE_EQ(rows[1].tokens_per_second, 4 / 1.5);
  EXPECT_DOUBLE_EQ(rows[0].speedup, 1);
  EXPECT_DOUBLE_EQ(rows[1].speedup, 4 / 1.5);
  EXPECT_DOUBLE_EQ(rows[1].speedup_median, 2.5);
  EXPECT_DOUBLE_EQ(rows[1].speedup_low, 2.25);
  EXPECT_NEAR(rows[1].first_token_ms, 100, 1e-9);
  EXPECT_EQ(rows[1].differing, 0);
  EXPECT_EQ(rows[1].requests, 2);
  EXPECT_FALSE(rows[1].over_lookahead || rows[1].over_medusa) << "they are not in the list";
}

TEST(BenchReport, TheMedianOfRepeatsCounts) {
  const BenchReport report =
      report_of({"none"}, {{{sample(1, {1, 2}), sample(100, {1, 2}), sample(2, {1, 2})}}});
  EXPECT_DOUBLE_EQ(report.points[0].rows[0].tokens_per_second, 0.5);
}

TEST(BenchReport, RivalsAreComparedWithWhereTheyAreInTheList) {
  const BenchReport report = report_of(
      {"none", "lookahead", "medusa:random", "medusa:heads", "ngram"}, {{{sample(8, {1, 2})}},
                                                                        {{sample(4, {1, 2})}},
                                                                        {{sample(1, {1, 2})}},
                                                                        {{sample(2, {1, 2})}},
                                                                        {{sample(0.5, {1, 2})}}});
  const BenchRow& row = report.points[0].rows[4];
  EXPECT_DOUBLE_EQ(row.speedup, 16);
  EXPECT_DOUBLE_EQ(row.over_lookahead.value(), 8);
  EXPECT_DOUBLE_EQ(row.over_medusa.value(), 4) << "the one whose weights mean something";
  EXPECT_DOUBLE_EQ(report.points[0].rows[0].over_lookahead.value(), 0.5);
  const auto runs = bench_json(report)["runs"];
  EXPECT_EQ(runs[4]["speedup_over_lookahead"], *row.over_lookahead);
  EXPECT_EQ(runs[4]["speedup_over_medusa"], *row.over_medusa);
  EXPECT_EQ(runs[2]["random_weights"], true);
  EXPECT_EQ(runs[3]["random_weights"], false);
  const std::string text = bench_text(report);
  EXPECT_THAT(text, HasSubstr("medusa:random [random weights: cost only]"));
  EXPECT_THAT(text, HasSubstr("vs lookahead"));
  EXPECT_THAT(text, HasSubstr("8.00x"));
  EXPECT_THAT(text, HasSubstr("\nmedusa: medusa:heads\n"));
}

TEST(BenchReport, RandomWeightsAreNoRival) {
  const BenchReport report =
      report_of({"none", "medusa:random"}, {{{sample(8, {1, 2})}}, {{sample(4, {1, 2})}}});
  EXPECT_FALSE(report.points[0].has_medusa());
  EXPECT_FALSE(bench_json(report)["runs"][1].contains("speedup_over_medusa"));
}

TEST(BenchReport, FindsOutputsThatDiffer) {
  BenchSample changed = sample(1, {1, 2});
  changed.finish = FinishReason::kStop;
  BenchSample digest = sample(1, {1, 2}), reference = sample(1, {1, 2});
  digest.tokens[1].digest = 5;
  reference.tokens[1].digest = 6;
  const BenchReport report = report_of(
      {"none", "ngram", "random:1", "random:2", "random:3"},
      {{{reference}}, {{sample(1, {1, 3})}}, {{sample(1, {1, 2, 3})}}, {{changed}}, {{digest}}});
  const std::vector<BenchRow>& rows = report.points[0].rows;
  for (size_t row = 1; row < 5; ++row) EXPECT_EQ(rows[row].differing, 1) << row;
  EXPECT_EQ(report.differing(), 4);
  EXPECT_EQ(rows[1].first_difference->describe(), "prompt 'first', token 2: 3 instead of 2");
  EXPECT_EQ(rows[2].first_difference->describe(), "prompt 'first', token 3: 3 tokens instead of 2");
  EXPECT_EQ(rows[3].first_difference->text, "ends for another reason");
  EXPECT_EQ(rows[4].first_difference->text, "other logits");
  const auto written = bench_json(report)["runs"][1];
  EXPECT_EQ(written["identical_to_none"], false);
  EXPECT_EQ(written["first_difference"]["position"], 1);
  EXPECT_THAT(bench_text(report), HasSubstr("1 DIFFER"));
  EXPECT_EQ(written["compared_tokens"], 2);
  EXPECT_EQ(written["differing_tokens"], 1);
  EXPECT_EQ(rows[0].tokens_compared, 2);
  EXPECT_EQ(rows[0].tokens_differing, 0);
  EXPECT_EQ(rows[2].tokens_compared, 3) << "the end of one is a token of the other";
  EXPECT_EQ(rows[2].tokens_differing, 1);
  EXPECT_EQ(rows[4].tokens_differing, 0) << "same tokens by other logits";
  EXPECT_THAT(bench_text(report),
              HasSubstr("ngram differs first at prompt 'first', token 2: 3 instead of 2"));
}

TEST(BenchReport, OneTokenOutputsDivideByNothing) {
  const BenchReport report = report_of({"none"}, {{{sample(0, {1})}}});
  EXPECT_EQ(report.points[0].rows[0].tokens_per_second, 0);
  EXPECT_EQ(report.points[0].rows[0].speedup, 1);
}

TEST(BenchReport, TogetherTheWholeTimeCounts) {
  const BenchMeasurement plain{{{sample(1, {1, 2}), sample(1, {1, 2})}}, {4, 8}};
  const BenchMeasurement drafted{{{sample(9, {1, 2}), sample(9, {1, 2})}}, {2, 2}};
  const BenchPoint point =
      make_bench_point({DrafterSpec{}, DrafterSpec::parse("ngram")}, {&plain, &drafted}, 0, {});
  EXPECT_DOUBLE_EQ(point.rows[0].tokens_per_second, 2 / 6.0);
  EXPECT_DOUBLE_EQ(point.rows[1].tokens_per_second, 1);
  EXPECT_DOUBLE_EQ(point.rows[1].speedup, 3);
  EXPECT_DOUBLE_EQ(point.rows[1].speedup_median, 3) << "of the repeats' 2 and 4";
}

TEST(BenchReport, TheTimeOfAStepIsSplit) {
  BenchSample split = sample(1, {1, 2, 3});
  split.stats.draft_seconds = 0.2;
  split.stats.target_seconds = 1.6;
  split.stats.communication_seconds = 0.04;
  split.stats.other_seconds = 0.16;
  split.stats.draft_hidden_seconds = 0.6;
  split.stats.draft_outcomes = 4;
  split.stats.draft_outcomes_in_tree = 3;
  const BenchReport report = report_of({"none", "ngram"}, {{{sample(1, {1, 2, 3})}}, {{split}}});
  const auto run = bench_json(report)["runs"][1];
  EXPECT_EQ(run["step_ms"].dump(),
            R"({"draft":100.0,"target":800.0,"communication":20.0,"rest":80.0})");
  EXPECT_NEAR(run["step_share"]["rest"].get<double>(), 0.08, 1e-12);
  EXPECT_NEAR(run["hidden_draft_share"].get<double>(), 0.75, 1e-12);
  EXPECT_EQ(run["outcomes_in_tree"], 0.75);
  EXPECT_EQ(run["tokens_per_pass"], 1.0) << "two tokens after the first, two passes";
  const std::string text = bench_text(report);
  EXPECT_THAT(text, HasSubstr("80.000  8.0 %"));
  EXPECT_THAT(text, HasSubstr("75 %"));
  EXPECT_THAT(bench_text(report_of({"none"}, {{{sample(1, {1})}}})),
              ::testing::Not(HasSubstr("hidden")));
}

TEST(BenchReport, FloorIsComparedWithPlainDecoding) {
  BenchReport report = report_of({"none"}, {{{sample(1, {1, 2, 3})}}});
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
  EXPECT_THAT(report["machine"].get<std::string>(), HasSubstr("usable"));
  // Both are tried; then one turn of all three prompts each, after another warm-up of `none`.
  EXPECT_THAT(run.seen.drafters_used, ElementsAre("ngram", "none"));
  EXPECT_EQ(run.seen.submitted, 2 + 1 + 6);
}

TEST(Bench, WhoWasLastBeginsTheNextTurn) {
  Job job;
  job.options.turn = 1;
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  EXPECT_THAT(run.seen.drafters_used, ElementsAre("ngram", "none", "ngram", "none"));
  EXPECT_EQ(run.seen.submitted, 2 + 3 + 6);
}

TEST(Bench, PointsShareWhatDoesNotDiffer) {
  Job job;
  job.options.json = true;
  job.options.sweeps = {parse_sweep("--sweep", "draft-tokens=2,4"),
                        parse_sweep("--sweep", "temperature=0,1")};
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  const json report = json::parse(run.out.str());
  ASSERT_EQ(report["runs"].size(), 8u);
  EXPECT_EQ(report["sweeps"]["temperature"], json({"0", "1"}));
  EXPECT_EQ(report["runs"][3]["settings"], json({{"draft-tokens", "2"}, {"temperature", "1"}}));
  EXPECT_EQ(report["runs"][0]["tokens_per_second"], report["runs"][4]["tokens_per_second"])
      << "plain decoding at T = 0 was measured once";
  // None twice and ngram four times make six units. All are tried, which takes four exchanges of
  // the drafter; then each has its turn, which takes five, with a warm-up each.
  EXPECT_EQ(run.seen.drafters_used.size(), 4u + 5u);
  EXPECT_EQ(run.seen.submitted, 6 + 5 + 6 * 3);
}

TEST(Bench, ABatchIsInFlightTogether) {
  Job job;
  job.options.json = true;
  job.options.repeat = 2;
  job.options.floor = false;
  job.options.sweeps = {parse_sweep("--sweep", "batch=1,2")};
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  EXPECT_EQ(run.seen.most_in_flight, 2);
  const json report = json::parse(run.out.str());
  ASSERT_EQ(report["runs"].size(), 4u);
  for (const json& one : report["runs"]) {
    EXPECT_GT(one["tokens_per_second"], 0) << one;
    EXPECT_EQ(one["identical_to_none"], true);
  }
}

TEST(Bench, WritesItsReport) {
  Job job;
  job.options.report = job.folder / "report.html";
  job.folder.write("report.html", "old");
  FakeRun run;
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  const std::string page = TempFolder::read(job.folder / "report.html");
  EXPECT_THAT(page, ::testing::StartsWith("<!DOCTYPE html>"));
  EXPECT_THAT(page, HasSubstr("FakeForCausalLM"));
  EXPECT_THAT(run.err.str(), HasSubstr("report.html"));
  EXPECT_THAT(run.out.str(), HasSubstr("tok/pass"));
  const auto files = std::filesystem::directory_iterator(job.folder / "");
  EXPECT_EQ(std::distance(begin(files), end(files)), 2) << "the prompts and the page";
}

TEST(Bench, AReportThatCannotBeWrittenIsToldFirst) {
  Job job;
  FakeRun run;
  for (const auto& path : {job.folder / "missing/report.html", job.folder / ""}) {
    job.options.report = path;
    try {
      run_bench(job.options, run.context);
      FAIL() << path;
    } catch (const Error& error) {
      EXPECT_THAT(error.what(), HasSubstr(path.string()));
    }
  }
  EXPECT_EQ(run.seen.engines, 0);
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
  EXPECT_EQ(run.seen.submitted, 2 + 3 + 6);
  EXPECT_THAT(run.out.str(), HasSubstr("1 prompts, 3 run(s) each"));
  EXPECT_THAT(run.out.str(), HasSubstr("identical"));
  EXPECT_THAT(run.out.str(), ::testing::Not(HasSubstr("Floor")));
}

TEST(BenchReport, CountsWhatDiffersOnlyAfterTheSameText) {
  const BenchReport report =
      report_of({"none", "ngram"}, {{{sample(1, {1, 2, 3, 4})}, {sample(1, {5, 6, 7, 8})}},
                                    {{sample(1, {1, 9, 3, 9})}, {sample(1, {5, 6, 7, 8})}}});
  const BenchRow& row = report.points[0].rows[1];
  EXPECT_EQ(row.differing, 1);
  EXPECT_EQ(row.tokens_compared, 2 + 4);
  EXPECT_EQ(row.tokens_differing, 2);
  EXPECT_THAT(bench_text(report),
              HasSubstr("  1 of 2 outputs differ, 166.7 of 1000 tokens after the same text; "
                        "2 tokens in all\n"));
  EXPECT_THAT(bench_text(report), ::testing::Not(HasSubstr("--gpu-matmul fast")));
}

TEST(Bench, OutputsMayDifferWithFastProducts) {
  Job job;
  job.options.engine.gpu_matmul = "fast";
  FakeRun run;
  run.corrupt_drafter = "ngram";
  EXPECT_EQ(run_bench(job.options, run.context), kExitOk);
  EXPECT_THAT(run.err.str(), HasSubstr("3 outputs differ from plain decoding's, as they may with"));
  EXPECT_THAT(run.out.str(), HasSubstr("With --gpu-matmul fast outputs may differ"));
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
