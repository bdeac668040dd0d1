// Weights as the CPU's matrix kernels read them.
//
// The outputs are cut into panels of 16, the last one padded with zero rows; panels follow each
// other. Inside a panel, reduction group after group; inside a group, bfloat16 weights lie in
// interleaved pairs of inputs,
//   [pair of inputs][16 outputs][2 inputs]        (64 bytes a pair)
// with each group padded with zeros to a multiple of 32 inputs; float32 weights lie as
//   [input][16 outputs]                           (64 bytes an input);
// float8 weights lie as expand_e4m3.h says, padded as bfloat16 ones (32 bytes a pair), and behind
// all panels there is a float32 scale for each of their outputs.
// One zmm register, two ymm registers or one row of an AMX tile is one pair (or input) of a panel;
// 32 inputs of a bfloat16 panel are one whole AMX tile of 1 KB. Every path reads this one layout.
#pragma once

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/team.h"

namespace convoke::cpu {

inline constexpr int64_t kPanelOutputs = 16;
inline constexpr int64_t kStepInputs =
    32;  ///< inputs of one AMX step; padding of bfloat16 and float8 groups

struct PackedLayout {
  DType dtype = DType::kBFloat16;
  int64_t outputs = 0;
  int64_t inputs = 0;
  int groups = 1;
  int64_t group_inputs = 0;   ///< inputs / groups
  int64_t padded_inputs = 0;  ///< of one group
  int64_t panels = 0;
  int64_t group_bytes = 0;  ///< of one panel
  int64_t panel_bytes = 0;
  /// Panels of two parts by turns: 16 outputs of the first, the same of the second, and so on.
  /// `outputs` counts those of one part.
  bool gated = false;

  DType activation() const { return dtype == DType::kFloat8E4M3 ? DType::kBFloat16 : dtype; }
  size_t weight_bytes() const { return size_t(panels * panel_bytes); }
  size_t scale_bytes() const {
    return dtype == DType::kFloat8E4M3 ? size_t(panels * kPanelOutputs) * sizeof(float) : 0;
  }
  int64_t panels_together() const { return gated ? 2 : 1; }  ///< that one thread must have
};

PackedLayout make_layout(const MatrixSource& source);

class CpuPackedMatrix final : public PackedMatrix {
 public:
  CpuPackedMatrix(const PackedLayout& layout, Arena::Piece memory)
      : layout_(layout), memory_(std::move(memory)) {}

  int64_t outputs() const override { return layout_.outputs; }
  int64_t inputs() const override { return layout_.inputs; }
  DType activation_dtype() const override { return layout_.activation(); }
  size_t bytes() const override { return layout_.weight_bytes() + layout_.scale_bytes(); }

  const PackedLayout& layout() const { return layout_; }
  std::byte* data() const { return memory_.data; }
  /// [panels][16] of float8 weights, else null.
  float* scales() const {
    return layout_.scale_bytes() == 0
               ? nullptr
               : reinterpret_cast<float*>(memory_.data + layout_.weight_bytes());
  }

 private:
  PackedLayout layout_;
  Arena::Piece memory_;
};

/// [begin, end)
struct PanelRange {
  int64_t begin = 0;
  int64_t end = 0;
};

/// The panels that thread `index` of `count` packs, and later reads: contiguous, so that it streams
/// through memory, and equal for all to within `together` panels.
inline PanelRange panel_share(int64_t panels, int index, int count, int64_t together = 1) {
  const int64_t units = panels / together;
  return {units * index / count * together, units * (index + 1) / count * together};
}

/// Packs with all threads of the team; each touches first what it will read. Throws
/// Error(kResource) when memory runs out. The source is read once and not copied.
std::unique_ptr<CpuPackedMatrix> pack_matrix(Team& team, Arena& arena, const MatrixSource& source);

}  // namespace convoke::cpu
