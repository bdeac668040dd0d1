// How often the library's products (--gpu-matmul fast) change a token: counted, and where.
#include <gtest/gtest.h>

#include <cmath>
#include <iostream>
#include <random>

#include "kernels/check.h"
#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke {
namespace {

using testing::TestReplica;
using testing::TestRequest;

/// Rows of logits for the same texts, by the order of sums that is in question.
struct Mismatches {
  int64_t tokens = 0;
  int64_t differing = 0;          ///< rows whose best token is another
  int64_t close = 0;              ///< rows whose two best are within twice the largest difference
  double largest_gap = 0;         ///< between the two best of a row that differs
  double largest_difference = 0;  ///< of a logit
  double worst_row = 0;           ///< norm of a row's difference ÷ norm of the row

  std::string text() const {
    return fmt::format(
        "{} of {} tokens differ ({:.2f} of 1000), where the two best were up to {:.2g} apart; "
        "logits differ by up to {:.2g}, so {} tokens could have",
        differing, tokens, 1000.0 * double(differing) / double(std::max<int64_t>(tokens, 1)),
        largest_gap, largest_difference, close);
  }
};

/// The best token, and how far the second is behind.
std::pair<size_t, double> best_of(const std::vector<float>& logits) {
  size_t best = 0;
  for (size_t i = 1; i < logits.size(); ++i) best = logits[i] > logits[best] ? i : best;
  double gap = INFINITY;
  for (size_t i = 0; i < logits.size(); ++i) {
    if (i != best) gap = std::min(gap, double(logits[best]) - double(logits[i]));
  }
  return {best, gap};
}

Mismatches compare(const LogitRows& exact, const LogitRows& fast) {
  Mismatches found;
  for (size_t r = 0; r < exact.size(); ++r) {
    for (size_t i = 0; i < exact[r].size(); ++i) {
      found.largest_difference =
          std::max(found.largest_difference, std::abs(double(exact[r][i]) - double(fast[r][i])));
    }
    found.worst_row = std::max(found.worst_row, distance(exact[r], fast[r]) / norm(exact[r]));
  }
  for (size_t r = 0; r < exact.size(); ++r) {
    const auto [token, gap] = best_of(exact[r]);
    ++found.tokens;
    found.close += gap <= 2 * found.largest_difference;
    if (best_of(fast[r]).first == token) continue;
    ++found.differing;
    found.largest_gap = std::max(found.largest_gap, gap);
  }
  return found;
}

TEST(FastProducts, MismatchesAreCounted) {
  const LogitRows exact = {{1, 2, 0}, {5, 4.5f, 1}, {3, 1, 2}, {0, 0.25f, 0}};
  const LogitRows fast = {{1, 2, 0}, {4.5f, 5, 1}, {3, 1, 2}, {0, 0, 0.25f}};
  const Mismatches found = compare(exact, fast);
  EXPECT_EQ(found.tokens, 4);
  EXPECT_EQ(found.differing, 2);
  EXPECT_EQ(found.largest_difference, 0.5);
  EXPECT_EQ(found.largest_gap, 0.5);
  EXPECT_EQ(found.close, 4);
  EXPECT_EQ(compare(exact, exact).differing, 0);
  EXPECT_EQ(compare(exact, exact).close, 0);
}

/// Texts that the model itself writes, and where in them its own tokens begin.
struct Text {
  std::vector<int32_t> tokens;
  size_t prompt;
};
std::vector<Text> write_texts(TestReplica& exact, int count, int tokens) {
  std::mt19937 random(5);
  std::vector<TestRequest> requests(static_cast<size_t>(count));
  for (TestRequest& r : requests) {
    r.prompt.resize(4 + random() % 12);
    for (int32_t& t : r.prompt) t = int32_t(random() % unsigned(exact.config().vocabulary));
    r.sampling.max_tokens = tokens;
    r.sampling.ignore_eos = true;
    r.sampling.temperature = 0;
  }
  const auto outcomes = exact.run(requests);
  std::vector<Text> texts;
  for (size_t i = 0; i < requests.size(); ++i) {
    Text& text = texts.emplace_back(Text{requests[i].prompt, requests[i].prompt.size()});
    text.tokens.insert(text.tokens.end(), outcomes[i].tokens.begin(), outcomes[i].tokens.end());
  }
  return texts;
}

/// Logits behind the prompts, computed in chunks of so many rows.
LogitRows rows_of(TestReplica& replica, const std::vector<Text>& texts, int chunk) {
  LogitRows all;
  for (const Text& text : texts) {
    const LogitRows rows = replica.logits(text.tokens, chunk);
    all.insert(all.end(), rows.begin() + ptrdiff_t(text.prompt) - 1, rows.end() - 1);
  }
  return all;
}

// On a GPU the demo model writes, which was trained, so its best tokens are as far apart as text
// has them; on emulated devices that takes too long.
TEST(FastProducts, ChangeFewTokensAndOnlyThoseThatWereClose) {
#if defined(CONVOKE_TEST_ON_GPU)
  const auto directory = checkout() / "demo/model";
  const int count = 24, tokens = 200;
#else
  const auto directory = kGoldenModels / "llama-gqa-bf16";
  const int count = 3, tokens = 24;
#endif
  std::vector<Text> texts;
  LogitRows exact;
  {
    TestReplica replica(directory, on_gpus({}, DType::kBFloat16));
    texts = write_texts(replica, count, tokens);
    exact = rows_of(replica, texts, 512);
  }
  size_t row = 0;
  for (const Text& text : texts) {
    for (size_t i = text.prompt; i < text.tokens.size(); ++i, ++row) {
      ASSERT_EQ(best_of(exact[row]).first, size_t(text.tokens[i])) << "what exact itself wrote";
    }
  }
  TestReplica replica(directory,
                      on_gpus({}, DType::kBFloat16, {.matmul = cuda::CudaMatmul::kFast}));
  const LogitRows together = rows_of(replica, texts, 512), alone = rows_of(replica, texts, 1);
  const struct {
    const char* what;
    Mismatches found;
  } cases[] = {{"fast, prompts whole, against exact", compare(exact, together)},
               {"fast, one row a pass, against exact", compare(exact, alone)},
               {"fast, one row a pass, against itself, prompts whole", compare(together, alone)}};
  EXPECT_GT(cases[0].found.largest_difference, 0) << "the library's are other sums";
  for (const auto& c : cases) {
    std::cout << "[ COUNTED  ] " << c.what << ": " << c.found.text() << std::endl;
    // A row's logits come of some 10 products per layer that round to 9 bits (model_test.cc).
    EXPECT_LE(c.found.worst_row, 4 * 0x1p-9 * std::sqrt(20.0 * replica.config().layers + 4));
    EXPECT_LE(double(c.found.differing), 0.03 * double(c.found.tokens)) << c.what;
  }
}

}  // namespace
}  // namespace convoke
