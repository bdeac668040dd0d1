// The report page: its structure, its figures, its charts, and that nothing in it is from outside.
#include "launcher/html_report.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <nlohmann/json.hpp>
#include <regex>

#include "launcher/replace_file.h"
#include "launcher/svg_chart.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::Not;
using testing::TempFolder;

/// Tags must nest, attributes be quoted and different, '&' begin one of XML's own entities. Returns
/// the first thing that is wrong, or "".
std::string xml_fault(const std::string& page) {
  static const std::regex tag(
      R"(<(/?)([A-Za-z][A-Za-z0-9]*)((?: [A-Za-z][A-Za-z0-9-]*="[^"<]*")*)(/?)>)");
  static const std::regex entity(R"(&(amp|lt|gt|quot|#39);)");
  std::vector<std::string> open;
  size_t roots = 0;
  for (size_t i = page.find('\n'); i < page.size(); ++i) {  // behind <!DOCTYPE html>
    const auto at = [&](const std::regex& what, std::smatch& match) {
      return std::regex_search(page.begin() + ptrdiff_t(i), page.end(), match, what,
                               std::regex_constants::match_continuous);
    };
    std::smatch match;
    const auto byte = uint8_t(page[i]);
    if (byte < 0x20 && byte != '\n' && byte != '\t') return fmt::format("control at {}", i);
    if (page[i] == '&' && !at(entity, match)) return "bare & at " + page.substr(i, 40);
    if (page[i] != '<') continue;
    if (!at(tag, match)) return "no tag: " + page.substr(i, 80);
    if (match[1].length() > 0) {
      if (open.empty() || open.back() != match[2]) return "closes what is not open: " + match.str();
      open.pop_back();
    } else if (match[4].length() == 0) {
      if (open.empty() && ++roots > 1) return "two roots";
      open.push_back(match[2]);
    }
    i += size_t(match.length()) - 1;
  }
  return open.empty() ? "" : "left open: " + open.back();
}

std::vector<std::string> all_matches(const std::string& text, const char* pattern) {
  const std::regex regex(pattern);
  std::vector<std::string> found;
  for (std::sregex_iterator it(text.begin(), text.end(), regex), end; it != end; ++it) {
    found.push_back((*it)[1]);
  }
  return found;
}

void expect_whole_and_alone(const std::string& page) {
  EXPECT_EQ(xml_fault(page), "");
  for (const std::string& target : all_matches(page, R"rx((?:href|src)="([^"]*)")rx")) {
    EXPECT_THAT(target, ::testing::StartsWith("#"));
    EXPECT_THAT(page, HasSubstr("id=\"" + target.substr(1) + "\"")) << "a link to nowhere";
  }
  for (const char* foreign : {"http:", "https:", "url(", "@import", "<script", "<link", "<img"}) {
    EXPECT_THAT(page, Not(HasSubstr(foreign)));
  }
  auto ids = all_matches(page, R"rx( id="([^"]*)")rx");
  const size_t count = ids.size();
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  EXPECT_EQ(ids.size(), count) << "ids must differ";
}

TEST(XmlFault, FindsFaults) {
  EXPECT_EQ(xml_fault("\n<a b=\"c\">x &amp; y<br/></a>"), "");
  EXPECT_THAT(xml_fault("\n<a><b></a></b>"), HasSubstr("closes"));
  EXPECT_THAT(xml_fault("\n<a>"), HasSubstr("left open: a"));
  EXPECT_THAT(xml_fault("\n<a>x & y</a>"), HasSubstr("bare &"));
  EXPECT_THAT(xml_fault("\n<a b=c></a>"), HasSubstr("no tag"));
  EXPECT_THAT(xml_fault("\n<a>1 < 2</a>"), HasSubstr("no tag"));
  EXPECT_THAT(xml_fault("\n<a/><b></b><c></c>"), HasSubstr("two roots"));
}

BenchSample sample(double seconds, int tokens, bool drafted) {
  BenchSample result;
  result.tokens.resize(size_t(tokens));
  result.finish = FinishReason::kLength;
  RequestStats& stats = result.stats;
  stats.output_tokens = tokens;
  stats.first_token_seconds = 0.1;
  stats.total_seconds = 0.1 + seconds;
  stats.decode_steps = drafted ? tokens / 2 : tokens - 1;
  stats.target_seconds = seconds * 0.8;
  stats.communication_seconds = seconds * 0.05;
  stats.other_seconds = seconds * 0.05;
  if (!drafted) return result;
  stats.draft_seconds = seconds * 0.1;
  stats.drafts = stats.decode_steps;
  stats.draft_tokens = 4 * stats.drafts;
  stats.accepted_tokens = stats.drafts;
  stats.drafted_by_depth = {stats.drafts, stats.drafts, stats.drafts / 2};
  stats.accepted_by_depth = {stats.drafts / 2, stats.drafts / 4, 0};
  return result;
}

/// `seconds` per drafter; each point is a little faster than the one before.
BenchReport example(const std::vector<std::string>& drafters, const std::vector<double>& seconds,
                    const std::vector<Sweep>& sweeps = {}) {
  BenchReport report;
  report.subject = {"convoke 0", "2026-01-02 03:04 UTC",         "a/model", "a machine",
                    "an engine", "convoke bench --model a/model"};
  report.sweeps = sweeps;
  report.prompts = 2;
  report.repeats = 1;
  std::vector<DrafterSpec> specs;
  for (const std::string& drafter : drafters) specs.push_back(DrafterSpec::parse(drafter));
  double scale = 1;
  for (const SweepPoint& settings : sweep_points(sweeps)) {
    std::vector<BenchMeasurement> measured;
    for (size_t d = 0; d < specs.size(); ++d) {
      const bool drafted = specs[d].method != "none";
      const double time = seconds[d] * (drafted ? scale : 1);
      measured.push_back({{{sample(time, 21, drafted)}, {sample(2 * time, 41, drafted)}}, {}});
    }
    std::vector<const BenchMeasurement*> pointers;
    for (const BenchMeasurement& one : measured) pointers.push_back(&one);
    report.points.push_back(make_bench_point(specs, pointers, 0, {"a", "b"}));
    report.points.back().settings = settings;
    scale *= 0.9;
  }
  return report;
}

TEST(HtmlReport, HasItsParts) {
  BenchReport report = example({"none", "lookahead", "medusa:m", "eagle:random"}, {4, 3, 2, 1});
  report.floor = FloorReport{50, 800, 1000, {{1, 500, 400}, {8, 600, 450}}};
  const std::string page = html_report(report);
  expect_whole_and_alone(page);
  EXPECT_THAT(
      all_matches(page, "<h[1-3]>(.*?)</h[1-3]>"),
      ElementsAre("Drafters compared by Convoke", "Drafters compared", "The machine's floor"));
  EXPECT_THAT(all_matches(page, R"rx( id="([^"]*)")rx"),
              ElementsAre("point-1", "point-1-speed", "point-1-depth", "point-1-step", "floor"));
  EXPECT_THAT(all_matches(page, "<dt>(.*?)</dt>"),
              ElementsAre("Model", "Machine", "Engine", "Date", "Program", "Command", "Drafter"));
  EXPECT_THAT(page, HasSubstr("eagle:random<span class=\"tag\">random weights: cost only</span>"));
  EXPECT_THAT(page, HasSubstr("Fastest: medusa, 2.00 times plain decoding. Every output is"))
      << "random weights win nothing";
  EXPECT_THAT(page, HasSubstr("prefers-color-scheme: dark"));
  EXPECT_THAT(page, HasSubstr("@media print"));
  EXPECT_THAT(page, Not(HasSubstr("<nav")));
}

TEST(HtmlReport, FiguresAreThoseOfTheJson) {
  const BenchReport report =
      example({"none", "lookahead", "medusa:m", "ngram"}, {4, 3.1, 2.3, 1.7});
  const std::string page = html_report(report);
  const auto runs = bench_json(report)["runs"];
  ASSERT_EQ(runs.size(), 4u);
  const auto cells = [&](const std::string& row) {
    return all_matches(row, "<t[dh][^>]*>(.*?)</t[dh]>");
  };
  const auto tables = all_matches(page, R"(<tbody>([^]*?)</tbody>)");
  ASSERT_EQ(tables.size(), 3u) << "speed, time of a step, acceptance by depth";
  const auto speed = all_matches(tables[0], "<tr>(.*?)</tr>");
  const auto steps = all_matches(tables[1], "<tr>(.*?)</tr>");
  const auto depths = all_matches(tables[2], "<tr>(.*?)</tr>");
  for (size_t r = 0; r < runs.size(); ++r) {
    const auto& run = runs[r];
    const auto number = [&](const char* key) { return run[key].get<double>(); };
    EXPECT_THAT(
        cells(speed.at(r)),
        ElementsAre(run["label"].get<std::string>(),
                    fmt::format("{:.1f}", number("tokens_per_second")),
                    fmt::format("{:.2f}", number("tokens_per_pass")),
                    fmt::format("{:.2f}", number("mean_acceptance_length")),
                    fmt::format("{:.2f}x", number("speedup")),
                    fmt::format("{:.2f} to {:.2f}", run["speedup_quartiles"][0].get<double>(),
                                run["speedup_quartiles"][2].get<double>()),
                    fmt::format("{:.2f}x", number("speedup_over_lookahead")),
                    fmt::format("{:.2f}x", number("speedup_over_medusa")), HasSubstr("identical")));
    const auto& step = run["step_ms"];
    EXPECT_THAT(cells(steps.at(r)).at(3),
                HasSubstr(fmt::format("{:.3f} ({:.1f} %)", step["target"].get<double>(),
                                      100 * run["step_share"]["target"].get<double>())));
    if (r == 0) continue;
    std::vector<std::string> expected = {run["label"].get<std::string>()};
    for (const double share : run["acceptance_by_depth"]) {
      expected.push_back(fmt::format("{:.2f}", share));
    }
    EXPECT_EQ(cells(depths.at(r - 1)), expected);
  }
}

TEST(HtmlReport, ChartsOverWhatIsSwept) {
  const Sweep tokens = parse_sweep("", "lookahead-tokens=1..3");
  const Sweep temperature = parse_sweep("", "temperature=1,0,0.5");
  const std::string page =
      html_report(example({"none", "ngram", "pass:p"}, {4, 3, 2}, {tokens, temperature}));
  expect_whole_and_alone(page);
  const auto captions = all_matches(page, "<figcaption>(.*?)</figcaption>");
  EXPECT_EQ(captions.size(), 3u * 2 + 9 * 3);
  EXPECT_EQ(captions[0], "Speed-up over lookahead-tokens, temperature 1");
  EXPECT_EQ(captions[5], "Tokens per pass over lookahead-tokens, temperature 0.5");
  EXPECT_EQ(all_matches(page, R"rx(<li><a href="#(point-\d)">)rx").size(), 9u);
  const auto figures = all_matches(page, R"(<figure([^]*?)</figure>)");
  EXPECT_THAT(figures[0], HasSubstr("pass, lookahead-tokens 3"));
  EXPECT_THAT(figures[0], Not(HasSubstr("ngram"))) << "it has no look-ahead tokens";

  const std::string over_temperature =
      html_report(example({"none", "ngram"}, {4, 3}, {temperature}));
  expect_whole_and_alone(over_temperature);
  const auto charts = all_matches(over_temperature, R"(<figure([^]*?)</figure>)");
  EXPECT_THAT(charts[0], HasSubstr("Speed-up over temperature"));
  EXPECT_THAT(charts[1], HasSubstr("Tokens per second over temperature"));
  EXPECT_THAT(charts[1], HasSubstr("none, temperature 0.5"));
  // Ascending, though given otherwise.
  EXPECT_THAT(all_matches(charts[0], "<title>ngram, (.*?):"),
              ElementsAre("temperature 0", "temperature 0.5", "temperature 1"));
}

TEST(HtmlReport, NothingInItIsMarkupByAccident) {
  const std::string nasty = "<b>&\"'\x01\xFF\xC3\xA9</b>--><script>";
  BenchReport report = example({"none", "eagle:" + nasty, "eagle:x"}, {2, 1, 1});
  report.subject = {nasty, nasty, nasty, nasty, nasty, nasty};
  report.points[0].rows[1].differing = 1;
  report.points[0].rows[1].first_difference = OutputDifference{nasty, 3, nasty};
  const std::string page = html_report(report);
  expect_whole_and_alone(page);
  EXPECT_THAT(page, Not(HasSubstr("<b>")));
  EXPECT_THAT(page,
              HasSubstr("&lt;b&gt;&amp;&quot;&#39;\xEF\xBF\xBD\xEF\xBF\xBD\xC3\xA9&lt;/b&gt;"));
  EXPECT_THAT(page, HasSubstr("1 outputs differ from plain decoding's.<"));
  report.may_differ = true;
  EXPECT_THAT(html_report(report), HasSubstr("as they may with --gpu-matmul fast"));
}

TEST(HtmlReport, PlainDecodingAloneAndNothingMeasured) {
  const std::string alone = html_report(example({"none"}, {1}));
  expect_whole_and_alone(alone);
  EXPECT_THAT(alone, Not(HasSubstr("point-1-speed")));
  BenchReport empty = example({"none", "ngram"}, {0, 0});
  for (BenchRow& row : empty.points[0].rows) row.stats = {};
  const std::string page = html_report(empty);
  expect_whole_and_alone(page);
  EXPECT_THAT(page, Not(HasSubstr("nan")));
  EXPECT_THAT(page, Not(HasSubstr("inf")));
}

TEST(EscapeMarkup, KeepsTextAndReplacesWhatIsNone) {
  EXPECT_EQ(escape_markup("a\tb\n\xE2\x80\xA6\xF0\x9F\x98\x80"),
            "a\tb\n\xE2\x80\xA6\xF0\x9F\x98\x80");
  const std::string replaced = "\xEF\xBF\xBD";
  EXPECT_EQ(escape_markup(std::string_view("\0", 1)), replaced);
  EXPECT_EQ(escape_markup("\x7F"), replaced);
  EXPECT_EQ(escape_markup("\xC0\x80"), replaced + replaced) << "overlong";
  EXPECT_EQ(escape_markup("\xED\xA0\x80"), replaced + replaced + replaced) << "half a pair";
  EXPECT_EQ(escape_markup("\xEF\xBF\xBF"), replaced + replaced + replaced) << "no character";
  EXPECT_EQ(escape_markup("x\xE2\x80"), "x" + replaced + replaced) << "torn";
  EXPECT_EQ(escape_markup("\xF4\x90\x80\x80").size(), 4 * replaced.size()) << "behind the last";
}

TEST(AxisMarks, AreRoundAndReachTheTop) {
  EXPECT_THAT(axis_marks(1), ElementsAre(0, ::testing::DoubleEq(0.2), ::testing::DoubleEq(0.4),
                                         ::testing::DoubleEq(0.6), ::testing::DoubleEq(0.8),
                                         ::testing::DoubleEq(1)));
  EXPECT_THAT(axis_marks(3.1), ElementsAre(0, 1, 2, 3, 4));
  for (double top = 1e-7; top < 1e9; top *= 1.37) {
    const std::vector<double> marks = axis_marks(top);
    EXPECT_GE(marks.back(), top * (1 - 1e-9));
    EXPECT_LE(marks.back(), top * 2);
    EXPECT_THAT(marks.size(), ::testing::AllOf(::testing::Ge(3u), ::testing::Le(7u))) << top;
  }
  EXPECT_EQ(axis_marks(0), axis_marks(1));
  EXPECT_EQ(axis_marks(NAN), axis_marks(1));
}

TEST(BarChart, LengthsAreInProportion) {
  BarChart chart{"c", "t", {}, 1.0};
  chart.bars = {{"a", 2, {}, {}, 0, "2"}, {"b", 0.5, 0.4, 0.7, 1, "0.5"}};
  const auto widths = all_matches(bar_chart(chart), R"rx(<rect x="4" y="[^"]*" width="([^"]*)")rx");
  ASSERT_EQ(widths.size(), 2u);
  EXPECT_NEAR(std::stod(widths[0]) / std::stod(widths[1]), 4, 1e-3);
}

TEST(StackedChart, PartsFollowEachOther) {
  const std::string svg = stacked_chart({"c", "t", {"x", "y", "z"}, {{"a", {1, 0, 3}, "4"}}});
  const auto starts =
      all_matches(svg, R"rx(<rect x="([^"]*)" y="[^"]*" width="[^"]*" height="14")rx");
  const auto widths = all_matches(svg, R"rx(width="([^"]*)" height="14")rx");
  ASSERT_EQ(widths.size(), 2u) << "a part of nothing is not drawn";
  EXPECT_NEAR(std::stod(widths[1]) / std::stod(widths[0]), 3, 1e-2);
  EXPECT_NEAR(std::stod(starts[1]), std::stod(starts[0]) + std::stod(widths[0]), 0.011);
}

TEST(LineChart, GapsAndOnePlace) {
  LineChart chart{"c", "t", "x", {"1", "2", "3", "4"}, {}, {}, {}, {}, 0};
  chart.lines = {{"a", 0, {1.0, {}, NAN, 2.0}}, {"b", 9, {1.0, 2.0, 3.0, 4.0}}};
  const auto paths = all_matches(line_chart(chart), R"rx(<path d="([^"]*)" class="s. line)rx");
  ASSERT_EQ(paths.size(), 4u) << "two lines and their keys";
  EXPECT_THAT(paths[0], Not(HasSubstr("L"))) << "what is not known is not joined";
  EXPECT_EQ(std::ranges::count(paths[1], 'L'), 3);
  chart = {"c", "t", "x", {"only"}, {}, {{"a", 0, {1.0}}}, {}, {}, 0};
  EXPECT_THAT(line_chart(chart), Not(HasSubstr("nan")));
}

TEST(LineChart, YIsUp) {
  LineChart chart{"c", "t", "x", {"1", "2"}, {}, {{"a", 0, {0.0, 5.0}}}, {}, {}, 0};
  const std::string svg = line_chart(chart);
  const auto y = all_matches(svg, R"rx(<circle cx="[^"]*" cy="([^"]*)")rx");
  EXPECT_GT(std::stod(y.at(0)), std::stod(y.at(1)));
}

TEST(ReplaceFile, WholeOrNotAtAll) {
  TempFolder folder;
  const auto path = folder.write("page", "old");
  replace_file(path, "new");
  EXPECT_EQ(TempFolder::read(path), "new");
  check_replaceable(path);
  EXPECT_EQ(TempFolder::read(path), "new");
  struct stat status = {};
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  const mode_t mask = umask(0);
  umask(mask);
  EXPECT_EQ(status.st_mode & 0777, 0666 & ~mask);
  const auto files = std::filesystem::directory_iterator(folder / "");
  EXPECT_EQ(std::distance(begin(files), end(files)), 1) << "no temporary file stays";
  for (const auto& bad : {folder / "missing/page", folder / ""}) {
    try {
      replace_file(bad, "new");
      FAIL() << bad;
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kResource);
      EXPECT_THAT(error.what(), HasSubstr(bad.string() + ": cannot write"));
    }
  }
}

}  // namespace
}  // namespace convoke
