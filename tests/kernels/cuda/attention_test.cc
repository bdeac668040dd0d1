#include "tests/kernels/cuda/attention_fixture.h"

namespace convoke::cuda {
namespace {

/// How far apart the backends may be: the oracle has queries and weights in float32, the tensor
/// cores get them to 2^-17; a rotated key that the two round to bfloat16 differently is off by
/// 2^-8; a cache of float16 is held against one of float32.
double tolerance(DType dtype) {
  return dtype == DType::kBFloat16 ? 2e-3 : dtype == DType::kFloat16 ? 2e-2 : 2e-5;
}

void expect_near_the_cpu(CudaCache& cuda, CpuCache& cpu, const std::vector<RowPlan>& rows,
                         DType dtype) {
  const Tokens got = cuda.pass(rows), want = cpu.pass(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    ASSERT_TRUE(near(Tokens{cuda.rotated(r)}, Tokens{cpu.rotated(r)}, 1e-5, 2e-6));
  }
  ASSERT_TRUE(near(got, want, 0, tolerance(dtype)));
}

std::vector<AttentionShape> shapes() {
  std::vector<AttentionShape> all;
  for (const int d : {8, 64, 80, 96, 128, 256}) all.push_back({4, 2, d, DType::kBFloat16});
  for (const int d : {80, 128}) all.push_back({4, 2, d, DType::kFloat16});
  for (const int d : {8, 64, 96, 256}) all.push_back({4, 2, d, DType::kFloat32});
  for (const DType dtype : {DType::kBFloat16, DType::kFloat16, DType::kFloat32}) {
    all.push_back({4, 2, 64, dtype, 19});
    all.push_back({4, 4, 80, dtype, 150, true});
  }
  for (int group = 1; group <= 8; ++group) all.push_back({2 * group, 2, 64, DType::kBFloat16});
  all.push_back({20, 1, 64, DType::kBFloat16});  // more than a tile
  all.push_back({48, 2, 96, DType::kBFloat16, 40});
  if (kSanitized)
    all = {{4, 2, 64}, {3, 1, 80, DType::kFloat16, 19, true}, {2, 1, 96, DType::kFloat32}};
  return all;
}

TEST(CudaAttention, MatchesTheCpu) {
  for (const AttentionShape& shape : shapes()) {
    SCOPED_TRACE(name_of(shape));
    constexpr int kLength = 300;
    const Layer layer(shape, kLength);
    const Tokens tokens = layer.tokens(kLength, 12);
    CudaCache cuda(layer, 1, kLength);
    CpuCache cpu(layer, 1, kLength);
    int begin = 0;
    for (const int chunk : {1, 37, 10, 64, 150, 1, 5, 31, 1}) {
      std::vector<RowPlan> rows;
      for (int i = 0; i < chunk; ++i) rows.push_back(chain_row(tokens, begin++));
      if (chunk > 64) {
        cuda.pass(rows, false), cpu.pass(rows, false);
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(expect_near_the_cpu(cuda, cpu, rows, shape.dtype));
    }
  }
}

/// A tree behind `base` tokens: each node's parent is one of the nodes before it, or the root. The
/// root is the last committed token, its slot the last of the context.
std::vector<RowPlan> tree_rows(const Tokens& tokens, int base, const std::vector<int>& parents,
                               int sequence = 0, int token_offset = 0) {
  std::vector<RowPlan> rows = {chain_row(tokens, base - 1, sequence)};
  for (size_t i = 0; i < parents.size(); ++i) {
    const int parent = parents[i];
    RowPlan row;
    row.sequence = sequence;
    row.slot = base + int(i);
    row.context = base;
    if (parent >= 0) row.path = rows[size_t(parent) + 1].path;
    row.path.push_back(row.slot);
    row.position = base + int(row.path.size()) - 1;
    row.qkv = &tokens[size_t(base + token_offset) + i];
    rows.push_back(row);
  }
  return rows;
}

std::vector<int> random_tree(int nodes, uint32_t seed) {
  Normal random(seed);
  std::vector<int> parents;
  for (int i = 0; i < nodes; ++i) parents.push_back(random.below(i + 1) - 1);
  return parents;
}

void append(TestCache& cache, const Tokens& tokens, int end, int sequence = 0) {
  for (int begin = 0; begin < end; begin += 64) {
    std::vector<RowPlan> rows;
    for (int p = begin; p < std::min(end, begin + 64); ++p) {
      rows.push_back(chain_row(tokens, p, sequence));
    }
    cache.pass(rows, false);
  }
}

TEST(CudaAttention, TreesMatchTheCpu) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const int base : {1, 31, 32, 33, 250, 256, 700}) {
      if (kSanitized && base > 100 && base != 250) continue;
      const AttentionShape shape = {6, 2, 64, dtype, base == 33 ? 20 : 0};
      const Layer layer(shape, base + 64);
      const Tokens tokens = layer.tokens(base + 64, 5);
      CudaCache cuda(layer, 1, base + 64);
      CpuCache cpu(layer, 1, base + 64);
      append(cuda, tokens, base - 1), append(cpu, tokens, base - 1);
      const auto rows = tree_rows(tokens, base, random_tree(base % 2 == 0 ? 63 : 11, 9));
      ASSERT_NO_FATAL_FAILURE(expect_near_the_cpu(cuda, cpu, rows, dtype)) << base;
    }
  }
}

/// Every combination of what may differ, by chance: types, head sizes, heads per key head, windows,
/// norms, contexts of 1 to 5000, 1 to 64 rows of chunks and trees of two sequences, and behind them
/// rows that only fill the pass up, whose queries, keys and values are NaN.
TEST(CudaAttention, RandomShapesMatchTheCpu) {
  Normal random(31);
  const DType dtypes[] = {DType::kBFloat16, DType::kFloat16, DType::kFloat32};
  const int head_dims[] = {64, 80, 96, 128};
  const int64_t work = kOnGpu ? 100'000'000 : kSanitized ? 400'000 : 3'000'000;
  const double longest = std::log(kSanitized ? 900.0 : 5000.0);
  for (int i = 0; i < (kOnGpu ? 120 : kSanitized ? 6 : 12); ++i) {
    const int kv_heads = 1 + random.below(2), group = 1 + random.below(8);
    const AttentionShape shape = {group * kv_heads,
                                  kv_heads,
                                  head_dims[i % 4],
                                  dtypes[random.below(3)],
                                  random.below(3) == 0 ? 1 + random.below(400) : 0,
                                  random.below(2) == 0};
    // Short contexts as often as long ones.
    const int base = i == 0 ? 1 : int(std::exp(longest * (1 + random.below(1000)) / 1000.0));
    const int64_t row_work = int64_t(shape.out_width()) * base;
    const int most = int(std::min<int64_t>(61, std::max<int64_t>(1, work / row_work)));
    const int count = i < 2 ? most : 1 + random.below(most), other = 1 + random.below(3);
    SCOPED_TRACE(testing::Message() << "case " << i << ": " << name_of(shape) << ", context "
                                    << base << ", " << count << " rows and " << other);
    const Layer layer(shape, base + 64);
    const Tokens tokens = layer.tokens(base + 64, uint32_t(i));
    CudaCache cuda(layer, 3, base + 64);
    CpuCache cpu(layer, 3, base + 64);
    append(cuda, tokens, base - 1, 1), append(cpu, tokens, base - 1, 1);
    std::vector<RowPlan> rows;
    for (int p = 0; p < other; ++p) rows.push_back(chain_row(tokens, p, 0));
    if (i % 2 == 0) {
      for (RowPlan& row : tree_rows(tokens, base, random_tree(count - 1, uint32_t(i)), 1)) {
        rows.push_back(row);
      }
    } else {
      for (int p = 0; p < count; ++p) rows.push_back(chain_row(tokens, base - 1 + p, 1));
    }
    const Tokens want = cpu.pass(rows);
    const std::vector<float> nothing(size_t(shape.row_width()), kNan);
    const size_t real = rows.size();
    for (int f = random.below(4); f > 0 && rows.size() < 64; --f) {
      rows.push_back({2, 0, -1, 0, {}, &nothing});
    }
    const Tokens got = cuda.pass(rows);
    ASSERT_TRUE(
        near(Tokens(got.begin(), got.begin() + long(real)), want, 0, tolerance(shape.dtype)));
  }
}

TEST(CudaAttention, LongContexts) {
  for (const AttentionShape& shape :
       std::vector<AttentionShape>{{8, 1, 128, DType::kBFloat16}, {2, 1, 64, DType::kFloat32}}) {
    const int length = kSanitized ? 1100 : 5000;
    const Layer layer(shape, length);
    const Tokens tokens = layer.tokens(length, 6);
    CudaCache cuda(layer, 1, length);
    CpuCache cpu(layer, 1, length);
    const int base = length - 10;
    append(cuda, tokens, base - 1), append(cpu, tokens, base - 1);
    const auto rows = tree_rows(tokens, base, random_tree(9, 4));
    ASSERT_NO_FATAL_FAILURE(expect_near_the_cpu(cuda, cpu, rows, shape.dtype));
  }
}

TEST(CudaAttention, LargeAndTinyScores) {
  for (const float factor : {1e-20f, 30.f, 1e4f}) {
    const AttentionShape shape = {2, 1, 64, DType::kBFloat16};
    const Layer layer(shape, 300);
    Tokens tokens = layer.tokens(300, 5);
    for (auto& token : tokens) {
      for (int j = 0; j < shape.heads * shape.head_dim; ++j) token[size_t(j)] *= factor;
    }
    CudaCache cuda(layer, 1, 300);
    CpuCache cpu(layer, 1, 300);
    append(cuda, tokens, 299), append(cpu, tokens, 299);
    const std::vector<RowPlan> rows = {chain_row(tokens, 299)};
    // Scores of 1e4 are wrong by 2^-17 of themselves, weights by e to that.
    const double allowed = factor > 1e3f ? 0.5 : factor > 1 ? 2e-2 : 1e-5;
    EXPECT_TRUE(near(cuda.pass(rows), cpu.pass(rows), 0, allowed)) << factor;
  }
}

// --- Equal bits ---

std::vector<AttentionShape> shapes_for_bits() {
  if (kSanitized) return {{4, 2, 64}, {2, 1, 64, DType::kFloat32, 37, true}};
  return {{8, 4, 64, DType::kBFloat16},     {3, 1, 80, DType::kFloat16, 0, true},
          {8, 1, 96, DType::kBFloat16, 37}, {2, 2, 128, DType::kBFloat16, 300},
          {20, 1, 64, DType::kBFloat16},    {4, 2, 64, DType::kFloat32, 37},
          {7, 1, 128, DType::kBFloat16}};
}

/// Every row on its own: the reference for bits.
Tokens one_by_one(CudaCache& cache, const std::vector<RowPlan>& rows) {
  Tokens result;
  for (const RowPlan& row : rows) result.push_back(cache.pass({row})[0]);
  return result;
}

TEST(CudaAttention, BitsDoNotDependOnTheChunk) {
  for (const AttentionShape& shape : shapes_for_bits()) {
    SCOPED_TRACE(name_of(shape));
    constexpr int kBegin = 230, kEnd = 294;
    const Layer layer(shape, kEnd);
    const Tokens tokens = layer.tokens(kEnd, 7);
    std::vector<RowPlan> rows;
    for (int p = kBegin; p < kEnd; ++p) rows.push_back(chain_row(tokens, p));
    CudaCache alone(layer, 1, kEnd, 3), together(layer, 1, kEnd, 4);
    append(alone, tokens, kBegin), append(together, tokens, kBegin);
    const Tokens want = one_by_one(alone, rows);
    together.spare_splits = 3;
    const Tokens got = together.pass(rows);
    for (size_t r = 0; r < rows.size(); ++r) ASSERT_TRUE(same_bits(got[r], want[r])) << r;
  }
}

TEST(CudaAttention, ADraftedTokenHasTheBitsOfACommittedOne) {
  for (const AttentionShape& shape : shapes_for_bits()) {
    for (const int base : {30, 255}) {
      SCOPED_TRACE(name_of(shape));
      constexpr int kNodes = 40;
      const Layer layer(shape, base + kNodes);
      const Tokens tokens = layer.tokens(base + kNodes, 8);
      const std::vector<int> parents = random_tree(kNodes, 11);
      const auto rows = tree_rows(tokens, base, parents);
      CudaCache tree(layer, 1, base + kNodes);
      append(tree, tokens, base - 1);
      const Tokens got = tree.pass(rows);
      // The way to the deepest node, as plain decoding takes it; the cache is another one.
      size_t deepest = 1;
      for (size_t r = 1; r < rows.size(); ++r) {
        if (rows[r].path.size() > rows[deepest].path.size()) deepest = r;
      }
      Tokens chain(tokens.begin(), tokens.begin() + base);
      for (const int32_t slot : rows[deepest].path) chain.push_back(tokens[size_t(slot)]);
      CudaCache plain(layer, 1, base + kNodes, 5);
      append(plain, chain, base - 1);
      ASSERT_TRUE(same_bits(got[0], plain.pass({chain_row(chain, base - 1)})[0]));
      std::vector<std::pair<int, int>> accepted;
      for (size_t i = 0; i < rows[deepest].path.size(); ++i) {
        const int slot = rows[deepest].path[i];
        const int position = base + int(i);
        ASSERT_TRUE(
            same_bits(got[size_t(slot - base + 1)], plain.pass({chain_row(chain, position)})[0]))
            << "depth " << i;
        accepted.push_back({slot, position});
      }
      // Committed, the path is part of the context.
      tree.move(0, accepted);
      const int next = base + int(accepted.size());
      chain.push_back(tokens[0]);
      const RowPlan row = {0, next, next, next + 1, {}, &tokens[0]};
      if (next < base + kNodes) {
        ASSERT_TRUE(same_bits(tree.pass({row})[0], plain.pass({row})[0]));
      }
    }
  }
}

TEST(CudaAttention, MovesInOrder) {
  const AttentionShape shape = {2, 2, 64, DType::kBFloat16};
  const Layer layer(shape, 64);
  const Tokens tokens = layer.tokens(64, 3);
  CudaCache cuda(layer, 1, 64);
  CpuCache cpu(layer, 1, 64);
  append(cuda, tokens, 40), append(cpu, tokens, 40);
  const std::vector<std::pair<int, int>> moves = {{39, 5}, {5, 20}, {33, 33}, {20, 0}};
  cuda.move(0, moves), cpu.move(0, moves);
  const std::vector<RowPlan> rows = {chain_row(tokens, 40)};
  EXPECT_TRUE(near(cuda.pass(rows), cpu.pass(rows), 0, tolerance(shape.dtype)));
}

TEST(CudaAttention, BitsDoNotDependOnNeighboursOrSchedules) {
  for (const AttentionShape& shape : shapes_for_bits()) {
    SCOPED_TRACE(name_of(shape));
    const Layer layer(shape, 300);
    const Tokens tokens = layer.tokens(300, 9), others = layer.tokens(300, 10);
    CudaCache cache(layer, 3, 300);
    append(cache, tokens, 270, 1), append(cache, others, 60, 0), append(cache, others, 100, 2);
    std::vector<RowPlan> rows = {chain_row(others, 60, 0)};
    for (RowPlan& row : tree_rows(tokens, 271, random_tree(20, 2), 1)) rows.push_back(row);
    for (int p = 100; p < 119; ++p) rows.push_back(chain_row(others, p, 2));
    const Tokens want = cache.pass(rows);
    under_every_schedule([&] {
      const Tokens got = cache.pass(rows);
      for (size_t r = 0; r < rows.size(); ++r) ASSERT_TRUE(same_bits(got[r], want[r])) << r;
    });
    const Tokens alone = one_by_one(cache, rows);
    for (size_t r = 0; r < rows.size(); ++r) ASSERT_TRUE(same_bits(alone[r], want[r])) << r;
  }
}

TEST(CudaAttention, NanOfASiblingReachesNobodyElse) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    const AttentionShape shape = {4, 1, 64, dtype};
    const Layer layer(shape, 100);
    Tokens tokens = layer.tokens(100, 9);
    const auto rows = tree_rows(tokens, 50, {-1, -1, 0, 1, 2, 3});
    CudaCache cache(layer, 1, 100);
    append(cache, tokens, 49);
    const Tokens before = cache.pass(rows);
    for (float& x : tokens[50]) x = kNan;  // node 0, whose descendants are nodes 2 and 4
    const Tokens after = cache.pass(rows);
    for (const size_t r : {0u, 2u, 4u, 6u}) EXPECT_TRUE(same_bits(after[r], before[r])) << r;
    for (const size_t r : {1u, 3u, 5u}) EXPECT_TRUE(std::isnan(after[r][0])) << r;
  }
}

TEST(CudaAttention, RowsThatSeeNothingAreZero) {
  const AttentionShape shape = {2, 1, 64, DType::kBFloat16};
  const Layer layer(shape, 10);
  const Tokens tokens = layer.tokens(10, 9);
  CudaCache cache(layer, 1, 16);
  const Tokens y = cache.pass({chain_row(tokens, 0), {0, 0, 5, 0, {}, &tokens[1]}});
  EXPECT_EQ(y[1], std::vector<float>(128, 0.0f));
}

TEST(CudaAttention, TilesDoNotCrossSequences) {
  const std::vector<int32_t> sequence = {4, 4, 4, 1, 1, 2, 2, 2, 2, 2};
  std::vector<int32_t> begin(11, -1);
  EXPECT_EQ(plan_attention(sequence, 32, 8, begin), 4);  // four rows of four heads
  EXPECT_EQ((std::vector(begin.begin(), begin.begin() + 5)), (std::vector{0, 3, 5, 9, 10}));
  EXPECT_EQ(plan_attention(sequence, 32, 1, begin), 10);
  EXPECT_EQ(plan_attention({}, 32, 1, begin), 0);
}

}  // namespace
}  // namespace convoke::cuda
