// Lists of drafters, settings to sweep.
#include "launcher/bench_sweep.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"
#include "launcher/drafter_list.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

std::vector<std::string> entries(const std::string& text) {
  std::vector<std::string> texts;
  for (const DrafterSpec& spec : parse_drafter_list("--drafters", text)) {
    texts.push_back(spec.text());
  }
  return texts;
}

template <typename F>
std::string refused(F&& action) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

TEST(DrafterList, EndsEntriesAtMethods) {
  EXPECT_THAT(entries("none"), ElementsAre("none"));
  EXPECT_THAT(entries("none,ngram"), ElementsAre("none", "ngram"));
  EXPECT_THAT(entries("ngram:max_n=4,min_n=2,none,pass:a/b,mode=two-pass,eagle:c"),
              ElementsAre("ngram:max_n=4,min_n=2", "none", "pass:a/b,mode=two-pass", "eagle:c"));
  EXPECT_THAT(entries("medusa:a,b/c,eagle3:d,tree=static,none"),
              ElementsAre("medusa:a,b/c", "eagle3:d,tree=static", "none"));
  EXPECT_THAT(entries("medusa:a,eaglets,nonesuch,none"),
              ElementsAre("medusa:a,eaglets,nonesuch", "none"))
      << "the whole name of a method counts";
}

TEST(DrafterList, SemicolonsAloneEndEntriesWhereThereAreAny) {
  EXPECT_THAT(entries("medusa:odd,none;ngram"), ElementsAre("medusa:odd,none", "ngram"));
  EXPECT_THAT(entries("medusa:odd,none;"), ElementsAre("medusa:odd,none"));
  EXPECT_THAT(refused([] { entries("none,ngram;none"); }), HasSubstr("'none,ngram'"));
}

TEST(DrafterList, RefusesWhatIsNoList) {
  const auto refusal = [](const std::string& text) { return refused([&] { entries(text); }); };
  EXPECT_THAT(refusal(""), HasSubstr("--drafters: is empty"));
  for (const char* text : {",", "none,", ",none", "none,,ngram", "eagle:a,,none", "eagle:a,", ";",
                           ";none", "none;;ngram"}) {
    EXPECT_THAT(refusal(text), HasSubstr("--drafters: an entry is empty")) << text;
  }
  EXPECT_THAT(refusal("none,nonesuch"), HasSubstr("'nonesuch'"));
  EXPECT_THAT(refusal("eagle:a,medsua:b"), HasSubstr("'medsua'"))
      << "a misspelt method is not a part of a path";
}

TEST(DrafterList, Labels) {
  const auto labels = [](const std::string& list) {
    return drafter_labels(parse_drafter_list("--drafters", list));
  };
  EXPECT_THAT(labels("none,eagle:/a/b/c,pass:d"), ElementsAre("none", "eagle", "pass"));
  EXPECT_THAT(labels("eagle:/a/x/,eagle:/a/y,medusa:z"),
              ElementsAre("eagle:x", "eagle:y", "medusa"));
  EXPECT_THAT(labels("pass:/p/x,pass:/p/x,mode=two-pass"),
              ElementsAre("pass:x", "pass:x,mode=two-pass"));
  EXPECT_THAT(labels("eagle:/a/x,eagle:/b/x"), ElementsAre("eagle:/a/x", "eagle:/b/x"));
  EXPECT_THAT(labels("eagle:random,eagle:x"), ElementsAre("eagle:random", "eagle"));
  EXPECT_THAT(labels("ngram,ngram"), ElementsAre("ngram", "ngram #2"));
  EXPECT_THAT(labels("eagle:random"), ElementsAre("eagle:random"));
}

TEST(DrafterList, RandomWeights) {
  EXPECT_TRUE(has_random_weights(DrafterSpec::parse("eagle:random")));
  EXPECT_TRUE(has_random_weights(DrafterSpec::parse("pass:random,mode=two-pass")));
  EXPECT_FALSE(has_random_weights(DrafterSpec::parse("eagle:randomised")));
  EXPECT_FALSE(has_random_weights(DrafterSpec::parse("random:7"))) << "a method of that name";
  EXPECT_FALSE(has_random_weights(DrafterSpec::parse("none")));
}

Sweep sweep(const std::string& text) {
  return parse_sweep("--sweep", text);
}

TEST(Sweep, Values) {
  EXPECT_EQ(sweep("lookahead-tokens=1..4"), (Sweep{"lookahead-tokens", {"1", "2", "3", "4"}}));
  EXPECT_EQ(sweep("batch=1..2,8"), (Sweep{"batch", {"1", "2", "8"}}));
  EXPECT_EQ(sweep("temperature=0,0.50,1.0"), (Sweep{"temperature", {"0", "0.5", "1"}}));
  EXPECT_EQ(sweep("shared-noise=on,off"), (Sweep{"shared-noise", {"on", "off"}}));
  EXPECT_EQ(sweep("draft-tokens=auto,32"), (Sweep{"draft-tokens", {"auto", "32"}}));
  EXPECT_EQ(sweep("draft-depth=5..5"), (Sweep{"draft-depth", {"5"}}));
}

TEST(Sweep, Refusals) {
  const auto refusal = [](const std::string& text) { return refused([&] { sweep(text); }); };
  EXPECT_THAT(refusal("temperature"), HasSubstr("not NAME=VALUES"));
  EXPECT_THAT(refusal("top-p=1"), HasSubstr("'top-p' cannot be swept; there are lookahead-tokens"));
  EXPECT_THAT(refusal("batch="), HasSubstr("--sweep batch: has no values"));
  EXPECT_THAT(refusal("batch=1,,2"), HasSubstr("'' is not a whole number"));
  EXPECT_THAT(refusal("batch=4..1"), HasSubstr("4..1 runs backwards"));
  EXPECT_THAT(refusal("batch=1..3,2"), HasSubstr("2 is given twice"));
  EXPECT_THAT(refusal("temperature=1,1.0"), HasSubstr("1 is given twice"));
  EXPECT_THAT(refusal("temperature=0..1"), HasSubstr("'0..1' is not a number"));
  EXPECT_THAT(refusal("lookahead-tokens=17"), HasSubstr("from 1 to 16"));
  EXPECT_THAT(refusal("shared-noise=maybe"), HasSubstr("'maybe' is not one of on|off"));
  EXPECT_THAT(refusal("draft-tokens=many"), HasSubstr("'many'"));
  EXPECT_THAT(refusal("batch=1..1000"), HasSubstr("more than 256"));
}

TEST(Sweep, TwoAtMostAndTheyFitTheDrafters) {
  const auto refusal = [](const std::vector<Sweep>& sweeps, const std::string& drafters) {
    return refused(
        [&] { check_sweeps("--sweep", sweeps, parse_drafter_list("--drafters", drafters)); });
  };
  EXPECT_EQ(refusal({sweep("batch=1,2"), sweep("temperature=0,1")}, "none"), "accepted");
  EXPECT_THAT(refusal({sweep("batch=1"), sweep("batch=2")}, "none"), HasSubstr("given twice"));
  EXPECT_THAT(refusal({sweep("batch=1"), sweep("temperature=0"), sweep("draft-depth=1")}, "none"),
              HasSubstr("two settings at most"));
  EXPECT_THAT(refusal({sweep("lookahead-tokens=1,2")}, "none,ngram"), HasSubstr("pass:DIR"));
  EXPECT_EQ(refusal({sweep("lookahead-tokens=1,2")}, "none,pass:x"), "accepted");
  EXPECT_THAT(refusal({sweep("batch=1..20"), sweep("draft-depth=1..20")}, "none"),
              HasSubstr("400 points"));
  EXPECT_EQ(largest_batch({sweep("batch=8,2"), sweep("temperature=99")}), 8);
  EXPECT_EQ(largest_batch({}), 0);
}

TEST(Sweep, PointsAreAllPairs) {
  EXPECT_THAT(sweep_points({}), ElementsAre(IsEmpty()));
  const auto points = sweep_points({sweep("batch=1,2"), sweep("temperature=0,1")});
  ASSERT_EQ(points.size(), 4u);
  EXPECT_EQ(point_text(points[1]), "batch 1, temperature 1");
  EXPECT_EQ(point_text(points[2]), "batch 2, temperature 0");
}

TEST(Sweep, ChangesWhatItNames) {
  const DrafterSpec pass = DrafterSpec::parse("pass:x"), none, ngram = DrafterSpec::parse("ngram");
  EXPECT_EQ(configure(pass, {{"lookahead-tokens", "3"}}).drafter.text(), "pass:x,lookahead=3");
  EXPECT_EQ(configure(ngram, {{"lookahead-tokens", "3"}}), configure(ngram, {}));
  EXPECT_EQ(configure(ngram, {{"draft-depth", "3"}}).drafter.limits.max_depth, 3);
  EXPECT_EQ(configure(ngram, {{"draft-top-k", "5"}}).drafter.limits.top_k, 5);
  const DrafterSpec fixed = configure(ngram, {{"draft-tokens", "9"}}).drafter;
  EXPECT_EQ(fixed.limits.max_nodes, 9);
  EXPECT_FALSE(fixed.auto_size);
  EXPECT_TRUE(configure(fixed, {{"draft-tokens", "auto"}}).drafter.auto_size);
  EXPECT_FALSE(configure(ngram, {{"shared-noise", "off"}}).drafter.shared_noise);
  EXPECT_EQ(configure(none, {{"draft-depth", "3"}, {"shared-noise", "off"}}), configure(none, {}))
      << "plain decoding has nothing to draft with";
  const BenchConfiguration hot = configure(none, {{"temperature", "0.5"}, {"batch", "4"}});
  EXPECT_EQ(hot.temperature, 0.5f);
  EXPECT_EQ(hot.batch, 4);
  EXPECT_TRUE(hot.same_drafter(configure(none, {})));
  EXPECT_FALSE(hot == configure(none, {}));
}

}  // namespace
}  // namespace convoke
