// What people read: tables, numbers, progress, statistics.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <sstream>

#include "launcher/progress.h"
#include "launcher/speculation_stats.h"
#include "launcher/table.h"
#include "launcher/text_assembler.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::Not;

TEST(Table, AlignsByCharacters) {
  Table table({"name", "n"});
  table.add_row({"a", "10"});
  table.add_row({"\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9", "2"});
  table.add_row({"x"});
  EXPECT_EQ(table.text(),
            "name    n\n"
            "a      10\n"
            "\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9\xC3\xA9   2\n"
            "x\n");
}

TEST(Numbers, HaveUnits) {
  EXPECT_EQ(format_count(0), "0");
  EXPECT_EQ(format_count(999), "999");
  EXPECT_EQ(format_count(25.7e6), "25.7 M");
  EXPECT_EQ(format_count(1e9), "1.00 G");
  EXPECT_EQ(format_bytes(512), "512 B");
  EXPECT_EQ(format_bytes(49.1 * 1024 * 1024), "49.1 MiB");
  EXPECT_EQ(format_bytes(2.3 * 1024 * 1024 * 1024), "2.30 GiB");
  EXPECT_EQ(format_duration(0), "0.0 s");
  EXPECT_EQ(format_duration(42), "42 s");
  EXPECT_EQ(format_duration(245), "4:05");
  EXPECT_EQ(format_duration(3723), "1:02:03");
  EXPECT_EQ(format_duration(-1), "-");
  EXPECT_EQ(format_share(3, 8), "37.5 %");
  EXPECT_EQ(format_share(3, 0), "-");
}

RequestStats sample_stats() {
  RequestStats stats;
  stats.prompt_tokens = 10;
  stats.output_tokens = 41;
  stats.decode_steps = 20;
  stats.drafts = 16;
  stats.draft_tokens = 64;
  stats.accepted_tokens = 24;
  stats.accepted_by_depth = {12, 8, 4};
  stats.drafted_by_depth = {16, 16, 8, 4};
  stats.first_token_seconds = 0.5;
  stats.total_seconds = 2.5;
  stats.draft_seconds = 0.1;
  stats.target_seconds = 1.6;
  stats.communication_seconds = 0.2;
  stats.other_seconds = 0.1;
  return stats;
}

TEST(SpeculationStats, Ratios) {
  const RequestStats stats = sample_stats();
  EXPECT_DOUBLE_EQ(acceptance_rate(stats), 0.375);
  EXPECT_DOUBLE_EQ(mean_acceptance_length(stats), 2.5);
  EXPECT_THAT(acceptance_by_depth(stats), ElementsAre(0.75, 0.5, 0.5, 0.0));
  EXPECT_DOUBLE_EQ(decode_tokens_per_second(stats), 20.0);
  EXPECT_DOUBLE_EQ(step_time(stats).total(), 100.0);
  EXPECT_DOUBLE_EQ(step_time(stats).target, 80.0);
}

TEST(SpeculationStats, NothingIsDividedByNothing) {
  const RequestStats empty;
  EXPECT_EQ(acceptance_rate(empty), 0.0);
  EXPECT_EQ(mean_acceptance_length(empty), 1.0);
  EXPECT_TRUE(acceptance_by_depth(empty).empty());
  EXPECT_EQ(decode_tokens_per_second(empty), 0.0);
  EXPECT_EQ(step_time(empty).total(), 0.0);
  EXPECT_THAT(stats_table(empty), HasSubstr("none"));
}

TEST(SpeculationStats, SumsEveryField) {
  RequestStats sum = sample_stats();
  add_stats(sum, sample_stats());
  EXPECT_EQ(sum.output_tokens, 82);
  EXPECT_EQ(sum.drafts, 32);
  EXPECT_THAT(sum.accepted_by_depth, ElementsAre(24, 16, 8));
  EXPECT_THAT(sum.drafted_by_depth, ElementsAre(32, 32, 16, 8));
  EXPECT_DOUBLE_EQ(mean_acceptance_length(sum), 2.5);
  EXPECT_DOUBLE_EQ(step_time(sum).total(), 100.0);
  RequestStats other;
  add_stats(other, sample_stats());
  EXPECT_EQ(other, sample_stats());
}

TEST(SpeculationStats, TableAndJsonAgree) {
  const std::string table = stats_table(sample_stats());
  EXPECT_THAT(table, HasSubstr("mean acceptance length  2.50"));
  EXPECT_THAT(table, HasSubstr("24 (37.5 % of those drafted)"));
  EXPECT_THAT(table, HasSubstr("0.75 0.50 0.50 0.00"));
  EXPECT_THAT(table, HasSubstr("100.00 ms: draft 5.0 %, target 80.0 %"));
  const auto json = stats_json(sample_stats());
  EXPECT_EQ(json["num_drafts"], 16);
  EXPECT_EQ(json["num_draft_tokens"], 64);
  EXPECT_EQ(json["num_accepted_tokens"], 24);
  EXPECT_EQ(json["num_accepted_tokens_per_pos"].dump(), "[12,8,4]");
  EXPECT_EQ(json["mean_acceptance_length"], 2.5);
  EXPECT_EQ(json["step_ms"]["target"], 80.0);
}

ProgressState sample_state() {
  ProgressState state;
  state.done = 30;
  state.before = 10;
  state.total = 110;
  state.running = 4;
  state.tokens = 5000;
  state.acceptance_length = 2.345;
  state.seconds = 10;
  return state;
}

TEST(Progress, PlainLine) {
  const std::string line = render_progress(sample_state(), false, 0);
  EXPECT_EQ(line,
            "batch: 30/110 requests done (27 %), 4 running  500 tok/s  accept 2.35  eta 40 s");
}

TEST(Progress, BarFitsTheTerminal) {
  ProgressState state = sample_state();
  state.errors = 2;
  for (const int columns : {10, 20, 40, 50, 80, 200}) {
    std::string line = render_progress(state, true, columns);
    for (size_t escape; (escape = line.find('\x1b')) != std::string::npos;) {
      line.erase(escape, line.find('m', escape) - escape + 1);
    }
    EXPECT_LT(count_characters(line), size_t(columns)) << line;
    if (columns < 60) continue;
    EXPECT_THAT(line, HasSubstr("━"));
    EXPECT_THAT(line, HasSubstr("30/110  500 tok/s  accept 2.35  errors 2"));
  }
}

TEST(Progress, UnknownTotalAndNothingDone) {
  ProgressState state;
  EXPECT_EQ(render_progress(state, false, 0), "batch: 0 requests done, 0 running  0.0 s");
  state.total = 0;
  EXPECT_THAT(render_progress(state, true, 80), HasSubstr("0/0"));
  state.total = 5;
  state.seconds = 1;
  EXPECT_THAT(render_progress(state, true, 80), Not(HasSubstr("eta")));
}

TEST(Progress, DrawsNowAndThen) {
  const auto start = Progress::Clock::time_point{};
  const auto after = [&](int ms) { return start + std::chrono::milliseconds(ms); };
  std::ostringstream lines;
  Progress plain(lines, Progress::Style::kLines, 0, start);
  plain.update(sample_state(), after(10));
  plain.update(sample_state(), after(4999));
  EXPECT_EQ(lines.str(), "");
  plain.update(sample_state(), after(5000));
  plain.update(sample_state(), after(5001));
  EXPECT_EQ(std::ranges::count(lines.str(), '\n'), 1);

  std::ostringstream bar;
  Progress drawn(bar, Progress::Style::kBar, 80, start);
  drawn.update(sample_state(), after(0));
  drawn.update(sample_state(), after(50));
  EXPECT_EQ(std::ranges::count(bar.str(), '\r'), 1);
  drawn.update(sample_state(), after(100));
  EXPECT_EQ(std::ranges::count(bar.str(), '\r'), 2);
  drawn.clear();
  EXPECT_TRUE(bar.str().ends_with("\r\x1b[K"));
  drawn.finish(sample_state());
  EXPECT_TRUE(bar.str().ends_with("\x1b[K\n"));

  std::ostringstream quiet;
  Progress none(quiet, Progress::Style::kNone, 80, start);
  none.update(sample_state(), after(9999));
  none.finish(sample_state());
  none.clear();
  EXPECT_EQ(quiet.str(), "");
}

}  // namespace
}  // namespace convoke
