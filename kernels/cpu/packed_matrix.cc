#include "kernels/cpu/packed_matrix.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"

namespace convoke::cpu {
namespace {

bool is_float(DType dtype) {
  return dtype == DType::kFloat32 || dtype == DType::kBFloat16 || dtype == DType::kFloat16;
}

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

/// One row of the source, or none beyond the last output.
struct SourceRow {
  const std::byte* data = nullptr;
  DType dtype = DType::kBFloat16;
  float scale = 1.0f;  ///< of float8 weights
};

/// The rows of the stacked parts, visited in ascending order.
class StackedRows {
 public:
  StackedRows(const MatrixSource& source, int64_t first) : source_(source), row_(first) { skip(); }

  SourceRow next() {
    if (part_ == source_.parts.size()) return {};
    const TensorView& part = source_.parts[part_];
    const SourceRow result{part.row<const std::byte>(row_), part.dtype};
    ++row_;
    skip();
    return result;
  }

 private:
  void skip() {
    while (part_ < source_.parts.size() && row_ >= source_.parts[part_].rows) {
      row_ -= source_.parts[part_].rows;
      ++part_;
    }
  }

  const MatrixSource& source_;
  size_t part_ = 0;
  int64_t row_;
};

// Checkpoint memory need not be aligned to its elements: loads go through memcpy.
template <typename T>
T load(const std::byte* data, int64_t index) {
  T value;
  std::memcpy(&value, data + index * int64_t(sizeof(T)), sizeof(T));
  return value;
}

/// values[0 .. n) = elements [begin, begin + n) of the row, values[n .. kStepInputs) = 0.
void read_step(const SourceRow& row, int64_t begin, int64_t n, uint16_t* values) {
  std::memset(values, 0, size_t(kStepInputs) * sizeof(uint16_t));
  if (row.data == nullptr) return;
  switch (row.dtype) {
    case DType::kBFloat16:
      std::memcpy(values, row.data + 2 * begin, size_t(n) * sizeof(uint16_t));
      return;
    case DType::kFloat16:
      for (int64_t k = 0; k < n; ++k) {
        values[k] = float_to_bf16(fp16_to_float(load<uint16_t>(row.data, begin + k)));
      }
      return;
    default:
      for (int64_t k = 0; k < n; ++k) values[k] = float_to_bf16(load<float>(row.data, begin + k));
  }
}

void read_step(const SourceRow& row, int64_t begin, int64_t n, float* values) {
  std::memset(values, 0, size_t(kStepInputs) * sizeof(float));
  if (row.data == nullptr) return;
  switch (row.dtype) {
    case DType::kBFloat16:
      for (int64_t k = 0; k < n; ++k) {
        values[k] = bf16_to_float(load<uint16_t>(row.data, begin + k));
      }
      return;
    case DType::kFloat16:
      for (int64_t k = 0; k < n; ++k) {
        values[k] = fp16_to_float(load<uint16_t>(row.data, begin + k));
      }
      return;
    default:
      std::memcpy(values, row.data + 4 * begin, size_t(n) * sizeof(float));
  }
}

/// Scatters 4-byte words of a row into column `output` of a panel: word i goes to line i.
void scatter_words(const std::byte* words, int64_t count, int64_t output, std::byte* lines) {
  std::byte* target = lines + 4 * output;
  for (int64_t i = 0; i < count; ++i) std::memcpy(target + 64 * i, words + 4 * i, 4);
}

/// codes[0 .. n) = elements [begin, begin + n) of the row, codes[n .. kStepInputs) = 0.
void read_step(const SourceRow& row, int64_t begin, int64_t n, uint8_t* codes) {
  std::memset(codes, 0, size_t(kStepInputs));
  if (row.data == nullptr || std::isnan(row.scale)) return;
  if (row.dtype == DType::kFloat8E4M3) {
    std::memcpy(codes, row.data + begin, size_t(n));
    return;
  }
  float values[kStepInputs];
  read_step(row, begin, n, values);
  for (int64_t k = 0; k < n; ++k) codes[k] = float_to_e4m3(values[k] / row.scale);
}

/// Output `output` of a panel: see expand_e4m3.h.
void scatter_codes(const uint8_t* codes, int64_t output, std::byte* lines) {
  std::byte* target = lines + output / 4 * 16 + output % 4 * 2;
  for (int64_t i = 0; i < kStepInputs / 4; ++i) {
    std::memcpy(target + 64 * i, codes + 4 * i, 2);
    std::memcpy(target + 64 * i + 8, codes + 4 * i + 2, 2);
  }
}

/// The scale of a row, given or chosen. NaN stands for a row with a NaN in it (or, where the scale
/// is chosen, an infinity): all that its output can be is NaN, and kernels need not know the code.
float scale_of(const SourceRow& row, int64_t inputs, float given) {
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  if (row.data == nullptr) return 1.0f;
  if (row.dtype == DType::kFloat8E4M3) {
    const auto is_nan = [](std::byte code) { return (uint8_t(code) & 0x7f) == 0x7f; };
    return std::any_of(row.data, row.data + inputs, is_nan) ? kNan : given;
  }
  float largest = 0;
  for (int64_t k = 0; k < inputs; k += kStepInputs) {
    const int64_t n = std::min(kStepInputs, inputs - k);
    float values[kStepInputs];
    read_step(row, k, n, values);
    for (int64_t i = 0; i < n; ++i) {
      if (!std::isfinite(values[i])) return kNan;
      largest = std::max(largest, std::abs(values[i]));
    }
  }
  const float scale = largest / 448.0f;
  return scale < std::numeric_limits<float>::min() ? 1.0f : scale;  // a row of (almost) zeros
}

void pack_step(const SourceRow* rows, const PackedLayout& layout, int64_t begin, int64_t n,
               std::byte* target) {
  if (layout.dtype == DType::kFloat8E4M3) {
    uint8_t codes[kStepInputs];
    for (int64_t r = 0; r < kPanelOutputs; ++r) {
      read_step(rows[r], begin, n, codes);
      scatter_codes(codes, r, target);
    }
  } else if (layout.dtype == DType::kBFloat16) {
    uint16_t values[kStepInputs];
    for (int64_t r = 0; r < kPanelOutputs; ++r) {
      const SourceRow& row = rows[r];
      if (row.data != nullptr && row.dtype == DType::kBFloat16 && n == kStepInputs) {
        scatter_words(row.data + 2 * begin, kStepInputs / 2, r, target);
      } else {
        read_step(row, begin, n, values);
        scatter_words(reinterpret_cast<const std::byte*>(values), kStepInputs / 2, r, target);
      }
    }
  } else {
    float values[kStepInputs];
    for (int64_t r = 0; r < kPanelOutputs; ++r) {
      read_step(rows[r], begin, n, values);
      scatter_words(reinterpret_cast<const std::byte*>(values), n, r, target);
    }
  }
}

/// The scales of a panel's rows, which begin with `first` of the stacked outputs.
void pack_scales(const MatrixSource& source, const PackedLayout& layout, int64_t first,
                 SourceRow* rows, float* target) {
  for (int64_t r = 0; r < kPanelOutputs; ++r) {
    const float given =
        rows[r].data == nullptr || source.scales.empty() ? 1.0f : source.scales[size_t(first + r)];
    rows[r].scale = target[r] = scale_of(rows[r], layout.inputs, given);
  }
}

void pack_panel(const MatrixSource& source, const PackedLayout& layout, int64_t panel,
                std::byte* target, float* scales) {
  SourceRow rows[kPanelOutputs];
  int64_t first_row = panel * kPanelOutputs;
  if (layout.gated) {
    const TensorView& part = source.parts[size_t(panel % 2)];
    first_row = panel % 2 * part.rows + panel / 2 * kPanelOutputs;
    for (int64_t r = 0; r < kPanelOutputs; ++r) {
      const int64_t row = panel / 2 * kPanelOutputs + r;
      if (row < part.rows) rows[r] = {part.row<const std::byte>(row), part.dtype};
    }
  } else {
    StackedRows stack(source, first_row);
    for (SourceRow& row : rows) row = stack.next();
  }
  if (scales != nullptr) pack_scales(source, layout, first_row, rows, scales);
  const int64_t step_bytes =
      kStepInputs * kPanelOutputs * int64_t(dtype_size(layout.dtype));  // of a full step
  for (int group = 0; group < layout.groups; ++group) {
    const int64_t first = group * layout.group_inputs;
    std::byte* step = target + group * layout.group_bytes;
    for (int64_t k = 0; k < layout.group_inputs; k += kStepInputs, step += step_bytes) {
      pack_step(rows, layout, first + k, std::min(kStepInputs, layout.group_inputs - k), step);
    }
  }
}

}  // namespace

PackedLayout make_layout(const MatrixSource& source) {
  CONVOKE_CHECK(!source.parts.empty());
  const bool float8 = source.dtype == DType::kFloat8E4M3;
  CONVOKE_CHECK(source.dtype == DType::kBFloat16 || source.dtype == DType::kFloat32 || float8);
  CONVOKE_CHECK(float8 || source.scales.empty());
  CONVOKE_CHECK(source.groups >= 1 && std::has_single_bit(unsigned(source.groups)));
  PackedLayout layout;
  layout.dtype = source.dtype;
  layout.inputs = source.parts.front().cols;
  CONVOKE_CHECK_GE(layout.inputs, 1);
  for (const TensorView& part : source.parts) {
    CONVOKE_CHECK(part.rows == 0 || (source.scales.empty() ? is_float(part.dtype)
                                                           : part.dtype == DType::kFloat8E4M3));
    CONVOKE_CHECK_EQ(part.cols, layout.inputs);
    layout.outputs += part.rows;
  }
  if (!source.scales.empty()) CONVOKE_CHECK_EQ(source.scales.size(), size_t(layout.outputs));
  layout.groups = source.groups;
  CONVOKE_CHECK_EQ(layout.inputs % layout.groups, 0);
  layout.group_inputs = layout.inputs / layout.groups;
  layout.padded_inputs = layout.dtype == DType::kFloat32
                             ? layout.group_inputs
                             : round_up(layout.group_inputs, kStepInputs);
  layout.gated = source.gated;
  if (layout.gated) {
    CONVOKE_CHECK_EQ(source.parts.size(), 2u);
    CONVOKE_CHECK_EQ(source.parts[0].rows, source.parts[1].rows);
    layout.outputs /= 2;
  }
  layout.panels = (layout.outputs + kPanelOutputs - 1) / kPanelOutputs * layout.panels_together();
  layout.group_bytes = layout.padded_inputs * kPanelOutputs * int64_t(dtype_size(layout.dtype));
  layout.panel_bytes = layout.group_bytes * layout.groups;
  return layout;
}

std::unique_ptr<CpuPackedMatrix> pack_matrix(Team& team, Arena& arena, const MatrixSource& source) {
  const PackedLayout layout = make_layout(source);
  auto matrix = std::make_unique<CpuPackedMatrix>(
      layout, arena.allocate(layout.weight_bytes() + layout.scale_bytes()));
  team.run([&](CpuStream& stream) {
    const PanelRange share =
        panel_share(layout.panels, stream.index(), stream.count(), layout.panels_together());
    for (int64_t panel = share.begin; panel < share.end; ++panel) {
      pack_panel(source, layout, panel, matrix->data() + panel * layout.panel_bytes,
                 matrix->scales() == nullptr ? nullptr : matrix->scales() + panel * kPanelOutputs);
    }
  });
  return matrix;
}

}  // namespace convoke::cpu
