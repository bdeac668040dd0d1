#include "kernels/cpu/packed_matrix.h"

#include <bit>
#include <cstring>

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

void pack_step(const SourceRow* rows, const PackedLayout& layout, int64_t begin, int64_t n,
               std::byte* target) {
  if (layout.dtype == DType::kBFloat16) {
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

void pack_panel(const MatrixSource& source, const PackedLayout& layout, int64_t panel,
                std::byte* target) {
  SourceRow rows[kPanelOutputs];
  if (layout.gated) {
    const TensorView& part = source.parts[size_t(panel % 2)];
    for (int64_t r = 0; r < kPanelOutputs; ++r) {
      const int64_t row = panel / 2 * kPanelOutputs + r;
      if (row < part.rows) rows[r] = {part.row<const std::byte>(row), part.dtype};
    }
  } else {
    StackedRows stack(source, panel * kPanelOutputs);
    for (SourceRow& row : rows) row = stack.next();
  }
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
  CONVOKE_CHECK(source.dtype == DType::kBFloat16 || source.dtype == DType::kFloat32);
  CONVOKE_CHECK(source.groups >= 1 && std::has_single_bit(unsigned(source.groups)));
  PackedLayout layout;
  layout.dtype = source.dtype;
  layout.inputs = source.parts.front().cols;
  CONVOKE_CHECK_GE(layout.inputs, 1);
  for (const TensorView& part : source.parts) {
    CONVOKE_CHECK(is_float(part.dtype));
    CONVOKE_CHECK_EQ(part.cols, layout.inputs);
    layout.outputs += part.rows;
  }
  layout.groups = source.groups;
  CONVOKE_CHECK_EQ(layout.inputs % layout.groups, 0);
  layout.group_inputs = layout.inputs / layout.groups;
  layout.padded_inputs = layout.dtype == DType::kBFloat16
                             ? round_up(layout.group_inputs, kStepInputs)
                             : layout.group_inputs;
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
      layout, arena.allocate(size_t(layout.panels * layout.panel_bytes)));
  team.run([&](CpuStream& stream) {
    const PanelRange share =
        panel_share(layout.panels, stream.index(), stream.count(), layout.panels_together());
    for (int64_t panel = share.begin; panel < share.end; ++panel) {
      pack_panel(source, layout, panel, matrix->data() + panel * layout.panel_bytes);
    }
  });
  return matrix;
}

}  // namespace convoke::cpu
