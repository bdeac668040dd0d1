#include "kernels/cpu/matmul.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/fetch_ahead.h"
#include "kernels/cpu/matmul_job.h"

namespace convoke::cpu {
namespace {

MatmulKernel select_kernel(Isa isa, DType dtype) {
  const auto choose = [dtype](MatmulKernel bf16, MatmulKernel e4m3, MatmulKernel f32) {
    return dtype == DType::kBFloat16 ? bf16 : dtype == DType::kFloat8E4M3 ? e4m3 : f32;
  };
#if defined(__x86_64__)
  switch (isa) {
    case Isa::kPortable:
      break;
    case Isa::kAvx2:
      return choose(avx2_bf16_kernel(), avx2_e4m3_kernel(), avx2_f32_kernel());
    case Isa::kAvx512Bf16:
      return choose(avx512_bf16_kernel(), avx512_e4m3_kernel(), avx512_f32_kernel());
    case Isa::kAmxBf16:
      return choose(amx_bf16_kernel(), amx_e4m3_kernel(), avx512_f32_kernel());
  }
#else
  CONVOKE_CHECK(isa == Isa::kPortable);
#endif
  return choose(portable_bf16_kernel(), portable_e4m3_kernel(), portable_f32_kernel());
}

int64_t divide_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit;
}

/// How a product is cut: threads as a grid of panels by rows. Rows are split only where there are
/// too few panels to keep all threads busy.
struct Grid {
  int panel_parts = 1;
  int row_parts = 1;
};

Grid choose_grid(int threads, int64_t panels, int row_units) {
  Grid best{threads, 1};
  int64_t best_cost = divide_up(panels, threads) * row_units;
  for (int rows = 2; rows <= std::min(threads, row_units); ++rows) {
    if (threads % rows != 0) continue;
    const int64_t cost = divide_up(panels, threads / rows) * divide_up(row_units, rows);
    if (cost < best_cost) {
      best = {threads / rows, rows};
      best_cost = cost;
    }
  }
  return best;
}

/// Whole cache lines, of an odd number: rows a multiple of 4 KB apart would evict each other.
int64_t spread_row_bytes(const PackedLayout& layout) {
  return (divide_up(layout.inputs * int64_t(dtype_size(layout.activation())), 64) | 1) * 64;
}

/// One call's rows, at most MatmulScratch::kRows of them at a time.
class Product {
 public:
  Product(CpuStream& stream, Isa isa, const MatmulScratch& scratch, const MatmulArgs& args)
      : stream_(stream),
        scratch_(scratch),
        args_(args),
        matrix_(static_cast<const CpuPackedMatrix&>(*args.weights)),
        layout_(matrix_.layout()),
        kernel_(select_kernel(isa, layout_.dtype)),
        elementwise_(elementwise_kernels_for(isa)),
        element_bytes_(int64_t(dtype_size(layout_.activation()))),
        row_bytes_(args.norm_weight == nullptr ? args.x.row_stride * element_bytes_
                                               : spread_row_bytes(layout_)),
        group_units_(divide_up(layout_.group_inputs, kernel_.unit_inputs)) {}

  void run() {
    for (int64_t row = 0; row < args_.x.rows; row += MatmulScratch::kRows) {
      const int rows = int(std::min<int64_t>(args_.x.rows - row, MatmulScratch::kRows));
      chunk(row, rows);
      stream_.barrier();
    }
  }

 private:
  void chunk(int64_t first_row, int rows) {
    MatmulJob job = describe(rows);
    const std::byte* x = args_.norm_weight == nullptr ? args_.x.row<const std::byte>(first_row)
                                                      : normalise(first_row, rows);
    if (must_rearrange(rows)) {
      rearrange(x, rows, job);
      stream_.barrier();
      job.x = scratch_.rows();
    } else if (must_spread(rows)) {
      job.x = spread(x, rows);
    } else {
      job.x = x;
    }
    if (layout_.gated) {
      job.activated = args_.y.row<std::byte>(first_row);
    } else {
      job.y = args_.y.row<float>(first_row);
    }
    // Of few rows all threads do what panels there are; who does which shows in the end.
    if (!job.streams) take_share(job);
    if (job.panels > 0 && job.rows > 0) kernel_.run(job);
  }

  /// The rows normalised. Few of them every thread makes for itself, which costs less than waiting
  /// for the others' share.
  const std::byte* normalise(int64_t first_row, int rows) const {
    const bool few = rows * layout_.inputs <= MatmulScratch::kFewElements;
    std::byte* const normed = few ? scratch_.few_normed(stream_.index()) : scratch_.normed();
    const PanelRange share =
        few ? PanelRange{0, rows} : panel_share(rows, stream_.index(), stream_.count());
    const PanelRange panels =
        panel_share(layout_.panels, stream_.index(), stream_.count(), layout_.panels_together());
    FetchAhead ahead;
    ahead.next[0] = matrix_.data() + panels.begin * layout_.panel_bytes;
    ahead.lines[0] = few ? (panels.end - panels.begin) * layout_.panel_bytes / 64 : 0;
    constexpr int kLinesPerRow = 32;
    for (int64_t r = share.begin; r < share.end; ++r) {
      fetch_lines(ahead, kLinesPerRow);
      const float* const x = args_.x.row<float>(first_row + r);
      const float factor = elementwise_.inverse_rms(x, layout_.inputs, args_.norm_epsilon);
      elementwise_.scale(x, factor, args_.norm_weight, normed + r * row_bytes_,
                         layout_.activation(), layout_.inputs);
    }
    if (!few) stream_.barrier();
    return normed;
  }

  /// Rows a multiple of 4 KB apart would evict each other from the first cache.
  bool same_sets(int rows) const { return rows > 8 && row_bytes_ % 4096 == 0; }

  bool must_rearrange(int rows) const {
    const bool ragged = layout_.group_inputs % kernel_.unit_inputs != 0;
    // What is read again for every panel is best read line after line.
    if (kernel_.tiles) return ragged || same_sets(rows) || rows > kernel_.max_rows;
    return ragged || (rows > 1 && !kernel_.in_place);
  }

  bool must_spread(int rows) const { return !must_rearrange(rows) && same_sets(rows); }

  /// Copies rows to where they do not meet in a cache.
  const std::byte* spread(const std::byte* x, int rows) const {
    const PanelRange share = panel_share(rows, stream_.index(), stream_.count());
    const int64_t stride = spread_row_bytes(layout_);
    for (int64_t r = share.begin; r < share.end; ++r) {
      std::memcpy(scratch_.normed() + r * stride, x + r * row_bytes_,
                  size_t(layout_.inputs * element_bytes_));
    }
    stream_.barrier();
    return scratch_.normed();
  }

  bool streams(int rows) const {
    return rows <= kernel_.max_rows || (rows <= kernel_.stream_rows && !must_rearrange(rows));
  }

  /// The whole of `rows` rows, as if one thread were to do it; x and y are not set.
  MatmulJob describe(int rows) const {
    MatmulJob job;
    job.rows = rows;
    job.streams = streams(rows);
    if (kernel_.tiles) {
      job.unit_rows = kernel_.max_rows;
    } else {
      const int64_t units = divide_up(rows, job.streams ? kernel_.max_rows : kernel_.block_rows);
      job.unit_rows = int(divide_up(rows, units));
    }
    if (must_rearrange(rows)) {
      // [group][step][row unit][row tile][16 rows][64 bytes], with an odd number of row units so
      // that successive steps of one do not meet in the same sets of a cache.
      const int64_t row_units = divide_up(rows, job.unit_rows);
      job.x_row_bytes = 64;
      job.x_tile_bytes = 1024;
      job.x_unit_bytes = 2048;
      job.x_step_bytes = 2048 * (row_units | 1);
      job.x_group_bytes = group_units_ * job.x_step_bytes;
    } else {
      job.x_in_place = true;
      job.x_row_bytes = must_spread(rows) ? spread_row_bytes(layout_) : row_bytes_;
      job.x_tile_bytes = 16 * job.x_row_bytes;
      job.x_unit_bytes = 32 * job.x_row_bytes;
      job.x_step_bytes = 64;
      job.x_group_bytes = layout_.group_inputs * element_bytes_;
    }
    job.weights = matrix_.data();
    job.panels = layout_.panels;
    job.panel_bytes = layout_.panel_bytes;
    job.group_bytes = layout_.group_bytes;
    job.scales = matrix_.scales();
    job.groups = layout_.groups;
    job.group_units = group_units_;
    job.y_stride = args_.y.row_stride;
    job.outputs = layout_.outputs;
    job.bias = args_.bias;
    job.accumulate = args_.accumulate;
    if (layout_.gated) {
      job.gated = true;
      job.second_bias = args_.bias == nullptr ? nullptr : args_.bias + layout_.outputs;
      job.activated_dtype = args_.y.dtype;
      job.activated_row_bytes = args_.y.row_stride * int64_t(dtype_size(args_.y.dtype));
      job.elementwise = &elementwise_;
    }
    job.scratch = scratch_.sums(stream_.index());
    job.queues = scratch_.queues();
    job.thread = stream_.index();
    job.threads = stream_.count();
    return job;
  }

  /// Narrows the job to what this thread does.
  void take_share(MatmulJob& job) const {
    job.queues = nullptr;
    job.thread = 0;
    job.threads = 1;
    const int row_units = int(divide_up(job.rows, job.unit_rows));
    const int64_t together = layout_.panels_together();
    const Grid grid = choose_grid(stream_.count(), job.panels / together, row_units);
    const int panel_part = stream_.index() % grid.panel_parts;
    const int row_part = stream_.index() / grid.panel_parts;

    const PanelRange panels = panel_share(job.panels, panel_part, grid.panel_parts, together);
    job.weights += panels.begin * job.panel_bytes;
    if (job.scales != nullptr) job.scales += panels.begin * kPanelOutputs;
    job.panels = panels.end - panels.begin;
    const int64_t first_output = panels.begin / together * kPanelOutputs;
    if (job.bias != nullptr) job.bias += first_output;
    if (job.second_bias != nullptr) job.second_bias += first_output;
    job.outputs = std::min(job.outputs - first_output, job.panels / together * kPanelOutputs);

    const int first_unit = row_units * row_part / grid.row_parts;
    const int end_unit = row_units * (row_part + 1) / grid.row_parts;
    const int first_row = first_unit * job.unit_rows;
    const int end_row = std::min(end_unit * job.unit_rows, job.rows);
    if (kernel_.tiles) {
      job.x += first_unit * job.x_unit_bytes;
    } else {
      job.x += first_row * (job.x_in_place ? job.x_row_bytes : job.groups * job.group_units * 4);
    }
    if (job.gated) {
      job.activated += first_row * job.activated_row_bytes +
                       first_output * int64_t(dtype_size(job.activated_dtype));
    } else {
      job.y += first_row * job.y_stride + first_output;
    }
    job.rows = std::max(end_row - first_row, 0);
  }

  /// Copies rows of x into the order the kernel reads, each group padded with zeros to whole units;
  /// each thread does a range of the units.
  void rearrange(const std::byte* x, int rows, const MatmulJob& job) const {
    const int64_t units = layout_.groups * group_units_;
    const PanelRange share = panel_share(units, stream_.index(), stream_.count());
    for (int64_t unit = share.begin; unit < share.end; ++unit) {
      const int64_t group = unit / group_units_;
      const int64_t in_group = unit % group_units_ * kernel_.unit_inputs;
      const int64_t inputs =
          std::min<int64_t>(kernel_.unit_inputs, layout_.group_inputs - in_group);
      const std::byte* source = x + (group * layout_.group_inputs + in_group) * element_bytes_;
      const size_t bytes = size_t(inputs * element_bytes_);
      if (kernel_.tiles) {
        copy_tile_rows(source, bytes, rows, scratch_.rows() + unit * job.x_step_bytes);
      } else {
        copy_words(source, bytes, rows, job.unit_rows, scratch_.rows(), unit, units);
      }
    }
  }

  void copy_tile_rows(const std::byte* source, size_t bytes, int rows, std::byte* target) const {
    for (int r = 0; r < rows; ++r, source += row_bytes_) {
      std::byte* line = target + int64_t(r) * 64;
      if (bytes == 64) {
        std::memcpy(line, source, 64);
      } else {
        std::memset(line, 0, 64);
        std::memcpy(line, source, bytes);
      }
    }
  }

  void copy_words(const std::byte* source, size_t bytes, int rows, int unit_rows, std::byte* target,
                  int64_t unit, int64_t units) const {
    for (int first = 0; first < rows; first += unit_rows) {
      const int count = std::min(unit_rows, rows - first);
      std::byte* words = target + 4 * (int64_t(first) * units + unit * count);
      for (int r = 0; r < count; ++r, source += row_bytes_) {
        uint32_t word = 0;
        std::memcpy(&word, source, bytes == 4 ? 4 : 2);
        std::memcpy(words + 4 * r, &word, sizeof(word));
      }
    }
  }

  CpuStream& stream_;
  const MatmulScratch& scratch_;
  const MatmulArgs& args_;
  const CpuPackedMatrix& matrix_;
  const PackedLayout& layout_;
  const MatmulKernel kernel_;
  const ElementwiseKernels& elementwise_;
  const int64_t element_bytes_;
  const int64_t row_bytes_;
  const int64_t group_units_;
};

}  // namespace

void MatmulScratch::reserve(const PackedLayout& layout) {
  const int64_t sums = scratch_floats(layout.groups);
  if (sums > sums_floats_) {
    sums_ = allocate_buffer(size_t(sums * threads_) * sizeof(float));
    sums_floats_ = sums;
  }
  // bfloat16 rows are padded as the weights are; float32 rows are as long as they are.
  const int64_t row_bytes =
      layout.padded_inputs * layout.groups * int64_t(dtype_size(layout.activation()));
  const size_t bytes = size_t(row_bytes * (kRows + kSpareRows));
  if (!rows_ || rows_->bytes() < bytes) rows_ = allocate_buffer(bytes);
  const size_t normed_bytes = size_t(spread_row_bytes(layout)) * kRows;
  if (!normed_ || normed_->bytes() < normed_bytes) normed_ = allocate_buffer(normed_bytes);
  if (!few_normed_) few_normed_ = allocate_buffer(kFewBytes * size_t(threads_));
}

float* MatmulScratch::sums(int thread) const {
  return static_cast<float*>(sums_->data()) + thread * sums_floats_;
}

std::byte* MatmulScratch::rows() const {
  return static_cast<std::byte*>(rows_->data());
}

std::byte* MatmulScratch::normed() const {
  return static_cast<std::byte*>(normed_->data());
}

std::byte* MatmulScratch::few_normed(int thread) const {
  return static_cast<std::byte*>(few_normed_->data()) + size_t(thread) * kFewBytes;
}

void matmul(CpuStream& stream, Isa isa, const MatmulScratch& scratch, const MatmulArgs& args) {
  CONVOKE_CHECK(args.weights != nullptr);
  const PackedLayout& layout = static_cast<const CpuPackedMatrix&>(*args.weights).layout();
  CONVOKE_CHECK(args.x.dtype ==
                (args.norm_weight == nullptr ? layout.activation() : DType::kFloat32));
  CONVOKE_CHECK(args.y.dtype == DType::kFloat32 ||
                (layout.gated && args.y.dtype == layout.activation()));
  CONVOKE_CHECK(!(layout.gated && args.accumulate));
  CONVOKE_CHECK_EQ(args.x.cols, args.weights->inputs());
  CONVOKE_CHECK_EQ(args.y.cols, args.weights->outputs());
  CONVOKE_CHECK_EQ(args.x.rows, args.y.rows);
  Product(stream, isa, scratch, args).run();
}

}  // namespace convoke::cpu
