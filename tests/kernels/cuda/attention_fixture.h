// A layer's worth of tokens and caches of both backends for the tests of attention.
#pragma once

#include <cstring>
#include <numeric>
#include <vector>

#include "kernels/cpu/attention.h"
#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {

struct AttentionShape {
  int heads = 4, kv_heads = 2, head_dim = 64;
  DType dtype = DType::kBFloat16;
  int window = 0;
  bool qk_norm = false;

  int row_width() const { return (heads + 2 * kv_heads) * head_dim; }
  int out_width() const { return heads * head_dim; }
  float scale() const { return 1.f / std::sqrt(float(head_dim)); }
};

inline std::string name_of(const AttentionShape& s) {
  return fmt::format("{} heads, {} kv, d {}, {}, window {}, norm {}", s.heads, s.kv_heads,
                     s.head_dim, dtype_name(s.dtype), s.window, s.qk_norm);
}

/// One row of a pass: where it stands and goes, what it sees, and its queries, keys and values.
struct RowPlan {
  int sequence = 0;
  int position = 0;
  int slot = 0;
  int context = 0;
  std::vector<int32_t> path;
  const std::vector<float>* qkv = nullptr;
};

using Tokens = std::vector<std::vector<float>>;

inline RowPlan chain_row(const Tokens& tokens, int position, int sequence = 0) {
  return {sequence, position, position, position + 1, {}, &tokens[size_t(position)]};
}

struct Layer {
  Layer(const AttentionShape& layer_shape, int positions) : shape(layer_shape) {
    Normal normal(1);
    const int half = shape.head_dim / 2;
    for (int p = 0; p < positions; ++p) {
      for (int j = 0; j < half; ++j) {
        const double angle = p * std::pow(10000.0, -double(j) / half);
        cos.push_back(float(std::cos(angle)));
        sin.push_back(float(std::sin(angle)));
      }
    }
    for (int j = 0; j < shape.head_dim; ++j) {
      q_norm.push_back(1 + 0.3f * normal());
      k_norm.push_back(1 + 0.3f * normal());
    }
  }
  Tokens tokens(int count, uint32_t seed) const {
    Normal normal(seed, 1.5f);
    Tokens rows;
    for (int i = 0; i < count; ++i) {
      rows.emplace_back(size_t(shape.row_width()));
      for (float& x : rows.back()) x = normal();
    }
    return rows;
  }
  AttentionShape shape;
  std::vector<float> cos, sin, q_norm, k_norm;
};

/// The cache of some sequences; what was not written is NaN.
class TestCache {
 public:
  TestCache(const Layer& layer, int sequences, int slots, uint32_t seed) : layer_(layer) {
    const int per_sequence = (slots + kKvBlockSize - 1) / kKvBlockSize;
    std::vector<int32_t> blocks(size_t(sequences * per_sequence));
    std::iota(blocks.begin(), blocks.end(), 0);
    std::mt19937 engine(seed);
    std::shuffle(blocks.begin(), blocks.end(), engine);
    blocks_ = blocks.size();
    for (int i = 0; i < sequences; ++i) {
      tables_.emplace_back(blocks.begin() + i * per_sequence,
                           blocks.begin() + (i + 1) * per_sequence);
    }
    for (const auto& table : tables_) table_pointers_.push_back(table.data());
  }
  virtual ~TestCache() = default;

  /// Runs the rows as one pass; returns [rows][heads * head_dim].
  Tokens pass(const std::vector<RowPlan>& rows, bool attend = true) {
    const AttentionShape& s = layer_.shape;
    std::vector<int32_t> sequence, position, slot, context, path_begin = {0}, path_slots;
    const int64_t stride = s.row_width() + 3, out_stride = s.out_width() + 5;
    qkv_.assign(rows.size() * size_t(stride), kNan);
    longest_ = 1;
    for (size_t r = 0; r < rows.size(); ++r) {
      sequence.push_back(rows[r].sequence);
      position.push_back(rows[r].position);
      slot.push_back(rows[r].slot);
      context.push_back(rows[r].context);
      path_slots.insert(path_slots.end(), rows[r].path.begin(), rows[r].path.end());
      path_begin.push_back(int32_t(path_slots.size()));
      longest_ = std::max(longest_, rows[r].context + int(rows[r].path.size()));
      std::copy(rows[r].qkv->begin(), rows[r].qkv->end(), qkv_.begin() + long(r) * stride);
    }
    const AttentionBatch batch = {int(rows.size()), sequence,   position,   slot,
                                  context,          path_begin, path_slots, table_pointers_};
    std::vector<float> out(rows.size() * size_t(out_stride), kNan);
    const auto count = int64_t(rows.size());
    const TensorView qkv = {qkv_.data(), DType::kFloat32, count, s.row_width(), stride};
    const TensorView y = {out.data(), DType::kFloat32, count, s.out_width(), out_stride};
    run({qkv, s.heads, &batch, kv_, layer_.cos.data(), layer_.sin.data(),
         s.qk_norm ? layer_.q_norm.data() : nullptr, s.qk_norm ? layer_.k_norm.data() : nullptr,
         1e-6f},
        {qkv, s.heads, &batch, kv_, s.scale(), s.window, y}, attend);
    Tokens result;
    for (size_t r = 0; r < rows.size(); ++r) {
      const float* const begin = out.data() + long(r) * out_stride;
      result.emplace_back(begin, begin + s.out_width());
      EXPECT_TRUE(std::isnan(begin[s.out_width()])) << "written beside y";
    }
    return result;
  }

  virtual void move(int sequence, const std::vector<std::pair<int, int>>& pairs) = 0;

  std::vector<float> rotated(size_t row) const {
    const auto begin = qkv_.begin() + long(row) * (layer_.shape.row_width() + 3);
    return {begin, begin + layer_.shape.heads * layer_.shape.head_dim};
  }

 protected:
  virtual void run(const RopeAppendArgs& rope, const AttentionArgs& args, bool attend) = 0;
  std::vector<KvMove> moves(int sequence, const std::vector<std::pair<int, int>>& pairs) const {
    std::vector<KvMove> list;
    for (const auto& [from, to] : pairs)
      list.push_back({table_pointers_[size_t(sequence)], from, to});
    return list;
  }

  const Layer& layer_;
  KvLayer kv_;
  size_t blocks_ = 0;
  std::vector<std::vector<int32_t>> tables_;
  std::vector<const int32_t*> table_pointers_;
  std::vector<float> qkv_;
  int longest_ = 0;
};

class CudaCache : public TestCache {
 public:
  CudaCache(const Layer& layer, int sequences, int slots, uint32_t seed = 3)
      : TestCache(layer, sequences, slots, seed),
        memory_(filled_memory(blocks_ * kv_block_bytes(shape_of(layer)))) {
    kv_ = {memory_.data(), shape_of(layer)};
  }
  void move(int sequence, const std::vector<std::pair<int, int>>& pairs) override {
    const std::vector<KvLayer> layers = {kv_};
    on_device::move_kv(layers, kv_.shape, moves(sequence, pairs));
  }
  int spare_splits = 0;  ///< how far beyond the longest row the launch reaches

 protected:
  void run(const RopeAppendArgs& rope, const AttentionArgs& args, bool attend) override {
    if (!attend) return on_device::rope_append(rope);
    on_device::rope_attention(rope, args, longest_ + 256 * spare_splits);
  }

 private:
  static KvShape shape_of(const Layer& layer) {
    return {layer.shape.kv_heads, layer.shape.head_dim, layer.shape.dtype};
  }
  DeviceBuffer memory_;
};

/// The oracle. It has no caches of float16: those are held against float32.
class CpuCache : public TestCache {
 public:
  CpuCache(const Layer& layer, int sequences, int slots, uint32_t seed = 3)
      : TestCache(layer, sequences, slots, seed),
        bytes_(blocks_ * cpu::kv_block_bytes(shape_of(layer)) + 16, std::byte{0xff}) {
    kv_ = {bytes_.data() + (16 - reinterpret_cast<uintptr_t>(bytes_.data()) % 16) % 16,
           shape_of(layer)};
  }
  void move(int sequence, const std::vector<std::pair<int, int>>& pairs) override {
    const std::vector<KvLayer> layers = {kv_};
    cpu::run_team(1, [&](cpu::CpuStream& stream) {
      cpu::move_kv(stream, kPath, layers, moves(sequence, pairs));
    });
  }

 protected:
  void run(const RopeAppendArgs& rope, const AttentionArgs& args, bool attend) override {
    cpu::run_team(1, [&](cpu::CpuStream& stream) {
      cpu::rope_append(stream, kPath, rope);
      if (attend) cpu::attention(stream, kPath, args);
    });
  }

 private:
  static constexpr auto kPath = cpu::Isa::kPortable;
  static KvShape shape_of(const Layer& layer) {
    const DType dtype = layer.shape.dtype;
    return {layer.shape.kv_heads, layer.shape.head_dim,
            dtype == DType::kFloat16 ? DType::kFloat32 : dtype};
  }
  std::vector<std::byte> bytes_;
};

inline TensorView view_of(const Tokens& rows, std::vector<float>& memory) {
  memory.clear();
  for (const auto& row : rows) memory.insert(memory.end(), row.begin(), row.end());
  return TensorView::matrix(memory.data(), DType::kFloat32, int64_t(rows.size()),
                            int64_t(rows.empty() ? 0 : rows[0].size()));
}

inline testing::AssertionResult near(const Tokens& a, const Tokens& b, double relative,
                                     double absolute) {
  std::vector<float> x, y;
  return near(view_of(a, x), view_of(b, y), relative, absolute);
}

/// Equal bits, and no NaN.
inline testing::AssertionResult same_bits(const std::vector<float>& a,
                                          const std::vector<float>& b) {
  if (a.size() != b.size()) return testing::AssertionFailure() << "sizes differ";
  for (size_t i = 0; i < a.size(); ++i) {
    if (std::isnan(a[i])) return testing::AssertionFailure() << "NaN at " << i;
    if (std::bit_cast<uint32_t>(a[i]) != std::bit_cast<uint32_t>(b[i])) {
      return testing::AssertionFailure() << "element " << i << ": " << a[i] << " and " << b[i];
    }
  }
  return testing::AssertionSuccess();
}

}  // namespace convoke::cuda
