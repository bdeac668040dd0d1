#include "kernels/cpu/attention.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <numeric>
#include <random>
#include <vector>

#include "kernels/cpu/kv_tiles.h"
#include "tests/kernels/test_team.h"

namespace convoke::cpu {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kUnit = 0x1p-24;  // largest relative error of one rounding

// Sanitizers make everything many times slower; they get fewer combinations of the same kinds.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

struct Shape {
  int heads = 4, kv_heads = 2, head_dim = 64;
  DType dtype = DType::kBFloat16;
  int window = 0;
  bool qk_norm = false;

  int row_width() const { return (heads + 2 * kv_heads) * head_dim; }
  int out_width() const { return heads * head_dim; }
  float scale() const { return 1.f / std::sqrt(float(head_dim)); }
};

std::string name_of(const Shape& s) {
  return fmt::format("{} heads, {} kv, d {}, {}, window {}, norm {}", s.heads, s.kv_heads,
                     s.head_dim, dtype_name(s.dtype), s.window, s.qk_norm);
}

/// One row of a pass: which token (by the position it stands at in its sequence), where it goes and
/// what it sees.
struct RowPlan {
  int sequence = 0;
  int position = 0;
  int slot = 0;
  int context = 0;
  std::vector<int32_t> path;
  const std::vector<float>* qkv = nullptr;
};

/// A model's single layer: rotation tables, norms, and tokens' raw queries, keys and values.
struct Layer {
  Layer(const Shape& layer_shape, int positions, uint32_t seed) : shape(layer_shape) {
    std::mt19937 engine(seed);
    std::normal_distribution<float> normal;
    const int half = shape.head_dim / 2;
    for (int p = 0; p < positions; ++p) {
      for (int j = 0; j < half; ++j) {
        const double angle = p * std::pow(10000.0, -double(j) / half);
        cos.push_back(float(std::cos(angle)));
        sin.push_back(float(std::sin(angle)));
      }
    }
    for (int j = 0; j < shape.head_dim; ++j) {
      q_norm.push_back(1 + 0.3f * normal(engine));
      k_norm.push_back(1 + 0.3f * normal(engine));
    }
  }
  std::vector<float> token(std::mt19937& engine) const {
    std::normal_distribution<float> normal;
    std::vector<float> row(size_t(shape.row_width()));
    for (float& value : row) value = 1.5f * normal(engine);
    return row;
  }
  std::vector<std::vector<float>> tokens(int count, uint32_t seed) const {
    std::mt19937 engine(seed);
    std::vector<std::vector<float>> rows;
    for (int i = 0; i < count; ++i) rows.push_back(token(engine));
    return rows;
  }
  Shape shape;
  std::vector<float> cos, sin, q_norm, k_norm;
};

/// The cache of some sequences; everything that was not written is NaN.
class Cache {
 public:
  Cache(const Layer& layer, Isa isa, int threads, int sequences, int slots, uint32_t seed)
      : layer_(layer), isa_(isa), threads_(threads) {
    const int per_sequence = (slots + kKvBlockSize - 1) / kKvBlockSize;
    std::vector<int32_t> blocks(size_t(sequences * per_sequence));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::mt19937 engine(seed);
    std::shuffle(blocks.begin(), blocks.end(), engine);
    const Shape& s = layer.shape;
    kv_.shape = {s.kv_heads, s.head_dim, s.dtype};
    // All bits set is NaN in both types.
    bytes_.assign(blocks.size() * kv_block_bytes(kv_.shape), std::byte{0xff});
    kv_.data = bytes_.data();
    for (int i = 0; i < sequences; ++i) {
      tables_.emplace_back(blocks.begin() + i * per_sequence,
                           blocks.begin() + (i + 1) * per_sequence);
    }
    for (const auto& table : tables_) table_pointers_.push_back(table.data());
  }

  /// Runs the rows as one pass; returns [rows][heads * head_dim] as float32 bits, and checks that
  /// the bfloat16 output is the rounded one. Rotated rows are left in `qkv()`.
  std::vector<std::vector<float>> pass(const std::vector<RowPlan>& rows) {
    const Shape& s = layer_.shape;
    std::vector<int32_t> sequence, position, slot, context, path_begin = {0}, path_slots;
    const int64_t stride = s.row_width() + 3, out_stride = s.out_width() + 5;
    qkv_.assign(rows.size() * size_t(stride), kNan);
    for (size_t r = 0; r < rows.size(); ++r) {
      sequence.push_back(rows[r].sequence);
      position.push_back(rows[r].position);
      slot.push_back(rows[r].slot);
      context.push_back(rows[r].context);
      path_slots.insert(path_slots.end(), rows[r].path.begin(), rows[r].path.end());
      path_begin.push_back(int32_t(path_slots.size()));
      std::copy(rows[r].qkv->begin(), rows[r].qkv->end(), qkv_.begin() + long(r) * stride);
    }
    const AttentionBatch batch = {int(rows.size()), sequence,   position,   slot,
                                  context,          path_begin, path_slots, table_pointers_};
    std::vector<float> out(rows.size() * size_t(out_stride), kNan);
    std::vector<uint16_t> out16(out.size(), 0xdead);
    const auto count = int64_t(rows.size());
    const TensorView qkv = {qkv_.data(), DType::kFloat32, count, s.row_width(), stride};
    const TensorView y = {out.data(), DType::kFloat32, count, s.out_width(), out_stride};
    const TensorView y16 = {out16.data(), DType::kBFloat16, count, s.out_width(), out_stride};
    RopeAppendArgs rope = {qkv,
                           s.heads,
                           &batch,
                           kv_,
                           layer_.cos.data(),
                           layer_.sin.data(),
                           s.qk_norm ? layer_.q_norm.data() : nullptr,
                           s.qk_norm ? layer_.k_norm.data() : nullptr,
                           1e-6f};
    // Once in two steps and once in one: the same bits go to the same slots.
    std::vector<float> qkv_again = qkv_;
    RopeAppendArgs rope_again = rope;
    rope_again.qkv.data = qkv_again.data();
    run_team(threads_, [&](CpuStream& stream) {
      rope_append(stream, isa_, rope);
      attention(stream, isa_, {qkv, s.heads, &batch, kv_, s.scale(), s.window, y});
      rope_attention(stream, isa_, rope_again,
                     {rope_again.qkv, s.heads, &batch, kv_, s.scale(), s.window, y16});
    });
    EXPECT_EQ(std::memcmp(qkv_.data(), qkv_again.data(), qkv_.size() * sizeof(float)), 0);
    std::vector<std::vector<float>> result;
    for (size_t r = 0; r < rows.size(); ++r) {
      const float* const begin = out.data() + long(r) * out_stride;
      result.emplace_back(begin, begin + s.out_width());
      EXPECT_TRUE(std::isnan(begin[s.out_width()]));
      for (int i = 0; i < s.out_width(); ++i) {
        if (std::isnan(begin[i])) continue;
        const uint32_t bits = std::bit_cast<uint32_t>(begin[i]);
        const uint32_t rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
        EXPECT_EQ(out16[r * size_t(out_stride) + size_t(i)], rounded);
      }
    }
    return result;
  }

  void move(int sequence, const std::vector<std::pair<int, int>>& pairs) {
    std::vector<KvMove> moves;
    for (const auto& [from, to] : pairs)
      moves.push_back({table_pointers_[size_t(sequence)], from, to});
    const std::vector<KvLayer> layers = {kv_};
    run_team(threads_, [&](CpuStream& stream) { move_kv(stream, isa_, layers, moves); });
  }

  Isa isa() const { return isa_; }
  const float* rotated_row(size_t r) const {
    return qkv_.data() + r * size_t(layer_.shape.row_width() + 3);
  }
  double key(int sequence, int slot, int kv_head, int j) const {
    return element(sequence, slot, kv_head, j, true);
  }
  double value(int sequence, int slot, int kv_head, int j) const {
    return element(sequence, slot, kv_head, j, false);
  }

 private:
  double element(int sequence, int slot, int kv_head, int j, bool key) const {
    const KvGeometry geometry = kv_geometry(kv_.shape);
    const int32_t block = tables_[size_t(sequence)][size_t(slot / kKvBlockSize)];
    const int place = slot % kKvBlockSize;
    if (kv_.shape.dtype == DType::kFloat32) {
      const float* const tile = key_tile<const float>(kv_, geometry, block, kv_head);
      return key ? tile[key_index<float>(place, j)]
                 : tile[geometry.key_elements + value_index<float>(geometry, place, j)];
    }
    const uint16_t* const tile = key_tile<const uint16_t>(kv_, geometry, block, kv_head);
    const uint16_t bits =
        key ? tile[key_index<uint16_t>(place, j)]
            : tile[geometry.key_elements + value_index<uint16_t>(geometry, place, j)];
    return std::bit_cast<float>(uint32_t(bits) << 16);
  }

  const Layer& layer_;
  Isa isa_;
  int threads_;
  KvLayer kv_;
  std::vector<std::byte> bytes_;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<const int32_t*> table_pointers_;
  std::vector<float> qkv_;
};

using Outputs = std::vector<std::vector<float>>;

RowPlan chain_row(const std::vector<std::vector<float>>& tokens, int position, int sequence = 0) {
  return {sequence, position, position, position + 1, {}, &tokens[size_t(position)]};
}

/// Tokens [begin, end) of a plain chain in passes of at most `chunk` rows.
Outputs run_chain(Cache& cache, const std::vector<std::vector<float>>& tokens, int begin, int end,
                  int chunk) {
  Outputs result;
  while (begin < end) {
    std::vector<RowPlan> rows;
    for (int i = 0; i < chunk && begin < end; ++i) rows.push_back(chain_row(tokens, begin++));
    for (auto& row : cache.pass(rows)) result.push_back(std::move(row));
  }
  return result;
}

testing::AssertionResult same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << "sizes differ";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i])) return testing::AssertionFailure() << "NaN at " << i;
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return testing::AssertionFailure() << "element " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return testing::AssertionSuccess();
}

class AttentionTest : public testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!machine_has(GetParam())) GTEST_SKIP() << "this machine has no " << test_name(GetParam());
  }
};

// --- Against double precision ---

/// The largest absolute error that roundings to `unit` relative error can make in a dot product.
double rotation_bound(double a, double b, double c, double s) {
  return 3 * kUnit * (std::abs(a * c) + std::abs(b * s)) + 1e-44;
}

void check_append(const Shape& shape, Isa isa) {
  SCOPED_TRACE(name_of(shape));
  const Layer layer(shape, 40, 1);
  const auto tokens = layer.tokens(40, 2);
  Cache cache(layer, isa, 2, 1, 40, 3);
  std::vector<RowPlan> rows;
  for (int p = 0; p < 40; ++p) rows.push_back(chain_row(tokens, p));
  cache.pass(rows);
  const int d = shape.head_dim, half = d / 2;
  for (int p = 0; p < 40; ++p) {
    for (int head = 0; head < shape.heads + 2 * shape.kv_heads; ++head) {
      const float* const raw = tokens[size_t(p)].data() + head * d;
      const bool query = head < shape.heads, value = head >= shape.heads + shape.kv_heads;
      const int kv_head = value ? head - shape.heads - shape.kv_heads : head - shape.heads;
      double squares = 0;
      for (int j = 0; j < d; ++j) squares += double(raw[j]) * raw[j];
      const double factor = shape.qk_norm ? 1 / std::sqrt(squares / d + 1e-6) : 1;
      const auto& norm = query ? layer.q_norm : layer.k_norm;
      const auto normed = [&](int j) {
        return raw[j] * factor * (shape.qk_norm ? norm[size_t(j)] : 1);
      };
      const double norm_error = shape.qk_norm ? (d / 128.0 + 12) * kUnit : 0;
      for (int j = 0; j < d; ++j) {
        const int i = j % half;
        const double c = layer.cos[size_t(p * half + i)], s = layer.sin[size_t(p * half + i)];
        const double a = normed(i), b = normed(i + half);
        const double exact = value ? raw[j] : j < half ? a * c - b * s : b * c + a * s;
        double bound =
            value ? 0 : (j < half ? rotation_bound(a, b, c, s) : rotation_bound(b, a, c, s));
        if (!value) bound += norm_error * (std::abs(a) + std::abs(b));
        const double actual = query   ? cache.rotated_row(size_t(p))[head * d + j]
                              : value ? cache.value(0, p, kv_head, j)
                                      : cache.key(0, p, kv_head, j);
        if (!query && shape.dtype == DType::kBFloat16) {
          bound += (std::abs(exact) + bound) * 0x1p-8;  // rounded to 8 bits, to nearest
          bound += 1e-40;
        }
        ASSERT_NEAR(actual, exact, bound) << "position " << p << " head " << head << " at " << j;
      }
    }
  }
}

TEST_P(AttentionTest, RotatesNormalisesAndStores) {
  for (const int d : {2, 20, 64, 80, 96, 128, 256, 512}) {
    for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
      check_append({4, 2, d, dtype, 0, d % 64 == 0}, GetParam());
    }
  }
}

/// One row of output against double precision, from the keys and values in the cache. The bound is
/// made of norms: a score is wrong by at most d units of sum |q||k|; a weight relatively by twice
/// the largest score error plus some units; the sum of n weighted values by n units of sum w|v|.
void check_row(const Cache& cache, const Shape& shape, const RowPlan& row, size_t index,
               const std::vector<float>& y) {
  std::vector<int> slots;
  const int end = row.context + int(row.path.size());
  for (int p = 0; p < end; ++p) {
    if (shape.window > 0 && p <= row.position - shape.window) continue;
    slots.push_back(p < row.context ? p : row.path[size_t(p - row.context)]);
  }
  const int d = shape.head_dim;
  // What is lost when a float32 goes into a product as the sum of two bfloat16.
  const double split = cache.isa() == Isa::kAmxBf16 ? 0x1p-17 : 0;
  for (int head = 0; head < shape.heads; ++head) {
    const int kv_head = head * shape.kv_heads / shape.heads;
    const float* const q = cache.rotated_row(index) + head * d;
    std::vector<double> scores;
    double top = -1e300, score_error = 0;
    for (const int slot : slots) {
      double score = 0, magnitude = 0;
      for (int j = 0; j < d; ++j) {
        const double term = q[j] * cache.key(row.sequence, slot, kv_head, j);
        score += term;
        magnitude += std::abs(term);
      }
      scores.push_back(score * shape.scale());
      top = std::max(top, scores.back());
      score_error =
          std::max(score_error, magnitude * shape.scale() * ((2 * d + 2) * kUnit + split));
    }
    double total = 0;
    for (double& score : scores) total += score = std::exp(score - top);
    const double chunks = end / 256 + 2;
    const double relative =
        2 * score_error + (double(slots.size()) * 2 + 20 + 16 * chunks + 2 * std::abs(top)) * kUnit;
    for (int j = 0; j < d; ++j) {
      double exact = 0, magnitude = 0;
      for (size_t i = 0; i < slots.size(); ++i) {
        const double term = scores[i] / total * cache.value(row.sequence, slots[i], kv_head, j);
        exact += term;
        magnitude += std::abs(term);
      }
      ASSERT_NEAR(double(y[size_t(head * d + j)]), exact, magnitude * 2 * relative + 1e-37)
          << name_of(shape) << " row " << index << " head " << head << " at " << j;
    }
  }
}

TEST_P(AttentionTest, MatchesDoublePrecision) {
  std::vector<Shape> shapes;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    for (const int d : {2, 18, 64, 80, 96, 128, 512}) shapes.push_back({4, 2, d, dtype});
    for (int group = 1; group <= 12; ++group) shapes.push_back({2 * group, 2, 64, dtype});
    shapes.push_back({4, 2, 64, dtype, 1});
    shapes.push_back({4, 2, 64, dtype, 19});
    shapes.push_back({4, 2, 160, dtype, 100});
    shapes.push_back({4, 4, 64, dtype, 256, true});
  }
  if (kSanitized) shapes = {{4, 2, 64}, {6, 2, 18, DType::kFloat32, 19}};
  for (const Shape& shape : shapes) {
    constexpr int kLength = 300;
    const Layer layer(shape, kLength, 11);
    const auto tokens = layer.tokens(kLength, 12);
    Cache cache(layer, GetParam(), 2, 1, kLength, 13);
    for (int begin = 0; begin < kLength;) {
      const int chunk = std::min(kLength - begin, begin == 0 ? 37 : 131);
      std::vector<RowPlan> rows;
      for (int i = 0; i < chunk; ++i) rows.push_back(chain_row(tokens, begin + i));
      const Outputs y = cache.pass(rows);
      for (size_t r = 0; r < y.size(); r += r % 5 == 0 ? 1 : 19) {
        ASSERT_NO_FATAL_FAILURE(check_row(cache, shape, rows[r], r, y[r]));
      }
      begin += chunk;
    }
  }
}

TEST_P(AttentionTest, LargeAndTinyScores) {
  // Queries so long that all but one weight vanish, and so short that all weights are equal.
  for (const float factor : {1e-20f, 30.f, 1e4f}) {
    const Shape shape = {2, 1, 32, DType::kFloat32};
    const Layer layer(shape, 300, 1);
    auto tokens = layer.tokens(300, 5);
    for (auto& token : tokens) {
      for (int j = 0; j < shape.heads * shape.head_dim; ++j) token[size_t(j)] *= factor;
    }
    Cache cache(layer, GetParam(), 1, 1, 300, 3);
    run_chain(cache, tokens, 0, 299, 64);
    const std::vector<RowPlan> rows = {chain_row(tokens, 299)};
    const Outputs y = cache.pass(rows);
    check_row(cache, shape, rows[0], 0, y[0]);
  }
}

// --- Equal bits ---

std::vector<Shape> shapes_for_bits() {
  std::vector<Shape> shapes;
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    shapes.push_back({8, 4, 64, dtype});
    shapes.push_back({3, 1, 80, dtype, 0, true});
    shapes.push_back({8, 1, 96, dtype, 37});
    shapes.push_back({2, 2, 128, dtype, 300});
    shapes.push_back({10, 2, 34, dtype});
    shapes.push_back({12, 1, 16, dtype, 5});
  }
  if (kSanitized) shapes = {{4, 2, 32}, {3, 1, 18, DType::kFloat32, 37, true}};
  return shapes;
}

TEST_P(AttentionTest, ChunksBlocksAndTeamsDoNotChangeBits) {
  constexpr int kLength = 333;
  for (const Shape& shape : shapes_for_bits()) {
    SCOPED_TRACE(name_of(shape));
    const Layer layer(shape, kLength, 21);
    const auto tokens = layer.tokens(kLength, 22);
    Cache alone(layer, GetParam(), 1, 1, kLength, 23);
    const Outputs expected = run_chain(alone, tokens, 0, kLength, 1);
    int threads = 1;
    for (const int chunk : {kLength, 1, 2, 3, 7, 16, 64, 100}) {
      SCOPED_TRACE(chunk);
      Cache cache(layer, GetParam(), threads = threads % 4 + 1, 1, kLength, uint32_t(chunk));
      const Outputs actual = run_chain(cache, tokens, 0, kLength, chunk);
      for (size_t r = 0; r < expected.size(); ++r) {
        ASSERT_TRUE(same_bits(expected[r], actual[r])) << "position " << r;
      }
    }
  }
}

/// A random tree over a committed context of `base` tokens: node `depths[i]`th token of the true
/// continuation where `truth[i]`, else junk, some of it NaN. Slots are shuffled.
struct Tree {
  Tree(const Layer& layer, const std::vector<std::vector<float>>& tokens, int base, int depth,
       int junk_count, uint32_t seed) {
    std::mt19937 engine(seed);
    std::vector<int> parent, level;
    for (int i = 0; i < depth; ++i) {
      parent.push_back(i - 1);
      level.push_back(i);
      truth.push_back(i);
    }
    for (int i = 0; i < junk_count; ++i) {
      const int node = int(engine() % (parent.size() + 1)) - 1;
      parent.push_back(node);
      level.push_back(node < 0 ? 0 : level[size_t(node)] + 1);
      truth.push_back(-1);
      junk.push_back(layer.token(engine));
      if (i % 3 == 0) std::fill(junk.back().begin(), junk.back().end(), kNan);
    }
    std::vector<int> slot(parent.size());
    std::iota(slot.begin(), slot.end(), base);
    std::shuffle(slot.begin(), slot.end(), engine);
    for (size_t i = 0; i < parent.size(); ++i) {
      RowPlan row = {0, base + level[i], slot[i], base, {}, nullptr};
      for (int node = int(i); node >= 0; node = parent[size_t(node)]) {
        row.path.insert(row.path.begin(), slot[size_t(node)]);
      }
      row.qkv = truth[i] >= 0 ? &tokens[size_t(base + truth[i])] : &junk[i - size_t(depth)];
      rows.push_back(row);
    }
    order.resize(rows.size());
    std::iota(order.begin(), order.end(), size_t{0});
    std::shuffle(order.begin(), order.end(), engine);
  }
  std::vector<int> truth;  ///< by node: index of the true continuation, or -1
  std::vector<std::vector<float>> junk;
  std::vector<RowPlan> rows;  ///< by node
  std::vector<size_t> order;  ///< in which the nodes become rows of the pass
};

void check_trees(const Shape& shape, Isa isa, int base, int depth, int junk, int threads) {
  SCOPED_TRACE(fmt::format("{}, base {}, depth {}, junk {}, threads {}", name_of(shape), base,
                           depth, junk, threads));
  const int length = base + depth + 20;
  const Layer layer(shape, length + junk, 31);
  const auto tokens = layer.tokens(length, 32);
  Cache alone(layer, isa, 1, 1, length, 33);
  const Outputs expected = run_chain(alone, tokens, 0, length, 1);

  Cache cache(layer, isa, threads, 1, length + junk + depth, uint32_t(base));
  run_chain(cache, tokens, 0, base, 50);
  const Tree tree(layer, tokens, base, depth, junk, uint32_t(base + depth));
  std::vector<RowPlan> rows;
  for (const size_t node : tree.order) rows.push_back(tree.rows[node]);
  const Outputs actual = cache.pass(rows);
  for (size_t r = 0; r < rows.size(); ++r) {
    const int truth = tree.truth[tree.order[r]];
    if (truth < 0) continue;
    ASSERT_TRUE(same_bits(expected[size_t(base + truth)], actual[r])) << "depth " << truth;
  }
  // Commit. In order of depth a target may be the source of a later move: go through free slots.
  std::vector<std::pair<int, int>> moves;
  std::vector<int> from(static_cast<size_t>(depth));
  for (int i = 0; i < depth; ++i) from[size_t(i)] = tree.rows[size_t(i)].slot;
  for (int i = 0; i < depth; ++i) {
    // A slot that is still needed is swapped aside to the end of the sequence.
    const auto needed = std::find(from.begin() + i + 1, from.end(), base + i);
    if (needed != from.end()) {
      const int aside = base + depth + junk + i;
      moves.emplace_back(base + i, aside);
      *needed = aside;
    }
    moves.emplace_back(from[size_t(i)], base + i);
  }
  cache.move(0, moves);
  const Outputs after = run_chain(cache, tokens, base + depth, length, 6);
  for (size_t i = 0; i < after.size(); ++i) {
    ASSERT_TRUE(same_bits(expected[size_t(base + depth) + i], after[i])) << "after commit " << i;
  }
}

TEST_P(AttentionTest, TreesAndCommitsDoNotChangeBits) {
  for (const Shape& shape : shapes_for_bits()) {
    int threads = 0;
    for (const int base : {0, 1, 15, 16, 100, 250, 256}) {
      threads = threads % 4 + 1;
      check_trees(shape, GetParam(), base, 1, 0, threads);
      check_trees(shape, GetParam(), base, 7, 24, threads);
    }
    check_trees(shape, GetParam(), 240, 40, 23, 3);
  }
}

TEST_P(AttentionTest, PathsThatReachOverManyBlocksAndChunks) {
  check_trees({4, 2, 32, DType::kBFloat16}, GetParam(), 3, 300, 100, 2);
  check_trees({4, 2, 32, DType::kFloat32, 30}, GetParam(), 200, 300, 100, 2);
}

TEST_P(AttentionTest, LongContext) {
  for (const DType dtype : {DType::kBFloat16, DType::kFloat32}) {
    const Shape shape = {4, 2, 32, dtype};
    constexpr int kLength = kSanitized ? 700 : 5000;
    const Layer layer(shape, kLength, 41);
    const auto tokens = layer.tokens(kLength, 42);
    Cache one(layer, GetParam(), 1, 1, kLength, 43), many(layer, GetParam(), 2, 1, kLength, 44);
    run_chain(one, tokens, 0, kLength - 64, 999);
    run_chain(many, tokens, 0, kLength - 64, 640);
    const Outputs expected = run_chain(one, tokens, kLength - 64, kLength, 1);
    std::vector<RowPlan> rows;
    for (int p = kLength - 64; p < kLength; ++p) rows.push_back(chain_row(tokens, p));
    const Outputs actual = many.pass(rows);
    for (size_t r = 0; r < actual.size(); ++r) ASSERT_TRUE(same_bits(expected[r], actual[r]));
    check_row(many, shape, rows[63], 63, actual[63]);
  }
}

TEST_P(AttentionTest, SequencesInOnePassDoNotMix) {
  for (const Shape& shape : shapes_for_bits()) {
    SCOPED_TRACE(name_of(shape));
    constexpr int kLength = 90;
    const Layer layer(shape, kLength, 51);
    std::vector<std::vector<std::vector<float>>> tokens;
    std::vector<Outputs> expected;
    for (uint32_t i = 0; i < 3; ++i) {
      tokens.push_back(layer.tokens(kLength, 60 + i));
      Cache alone(layer, GetParam(), 1, 1, kLength, 70 + i);
      expected.push_back(run_chain(alone, tokens[i], 0, kLength, 1));
    }
    Cache cache(layer, GetParam(), 2, 3, kLength, 80);
    // The sequences advance by different numbers of rows: prompts beside single rows.
    std::vector<int> done = {0, 0, 0};
    for (int step = 0; done[0] + done[1] + done[2] < 3 * kLength; ++step) {
      std::vector<RowPlan> rows;
      for (int i = 0; i < 3; ++i) {
        const int count = (step + i) % 3 == 0 ? 13 : (step + i) % 3;
        for (int k = 0; k < count && done[size_t(i)] < kLength; ++k) {
          rows.push_back(chain_row(tokens[size_t(i)], done[size_t(i)]++, i));
        }
      }
      const Outputs actual = cache.pass(rows);
      for (size_t r = 0; r < rows.size(); ++r) {
        ASSERT_TRUE(
            same_bits(expected[size_t(rows[r].sequence)][size_t(rows[r].position)], actual[r]));
      }
    }
  }
}

TEST_P(AttentionTest, NothingBetweenWindowsIsRead) {
  // Rows of one group whose windows lie far apart: the blocks between hold NaN throughout.
  const Shape shape = {2, 1, 32, DType::kBFloat16, 4};
  const Layer layer(shape, 400, 91);
  const auto tokens = layer.tokens(400, 92);
  Cache cache(layer, GetParam(), 1, 1, 400, 93);
  std::vector<RowPlan> rows;
  for (const int p : {0, 1, 2, 3, 120, 121, 122, 123, 390, 391, 392, 393}) {
    rows.push_back(chain_row(tokens, p));
  }
  const Outputs y = cache.pass(rows);
  for (const size_t r : {3, 7, 11}) check_row(cache, shape, rows[r], r, y[r]);
}

TEST_P(AttentionTest, EmptyPassAndMovesInOrder) {
  const Shape shape = {2, 1, 32, DType::kBFloat16};
  const Layer layer(shape, 64, 1);
  const auto tokens = layer.tokens(64, 2);
  Cache cache(layer, GetParam(), 3, 1, 64, 3);
  EXPECT_TRUE(cache.pass({}).empty());
  cache.move(0, {});
  run_chain(cache, tokens, 0, 20, 20);
  const double first = cache.key(0, 5, 0, 7), second = cache.value(0, 6, 0, 31);
  cache.move(0, {{5, 40}, {6, 5}, {40, 33}, {5, 6}, {7, 7}});
  EXPECT_EQ(cache.key(0, 33, 0, 7), first);
  EXPECT_EQ(cache.value(0, 5, 0, 31), second);
  EXPECT_EQ(cache.value(0, 6, 0, 31), second);
  EXPECT_TRUE(std::isnan(cache.value(0, 34, 0, 31)));
}

INSTANTIATE_TEST_SUITE_P(Isa, AttentionTest,
                         testing::Values(Isa::kPortable, Isa::kAvx2, Isa::kAvx512Bf16,
                                         Isa::kAmxBf16),
                         [](const auto& isa) { return test_name(isa.param); });

TEST(KvBlockBytes, CountsKeysAndPaddedValues) {
  EXPECT_EQ(kv_block_bytes({4, 64, DType::kBFloat16}), 4u * 16 * (64 + 64) * 2);
  EXPECT_EQ(kv_block_bytes({1, 20, DType::kFloat32}), 16u * (20 + 32) * 4);
}

}  // namespace
}  // namespace convoke::cpu
