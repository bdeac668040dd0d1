#include "kernels/cpu/cpu_backend.h"

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "kernels/cpu/attention.h"
#include "kernels/cpu/buffer.h"
#include "kernels/cpu/elementwise.h"
#include "kernels/cpu/matmul.h"
#include "kernels/cpu/packed_matrix.h"
#include "kernels/cpu/pick.h"
#include "kernels/cpu/team.h"

namespace convoke::cpu {
namespace {

/// Every thread takes a part of every row, in whole cache lines.
void copy_matrix(CpuStream& stream, const TensorView& from, const TensorView& to) {
  CONVOKE_CHECK(from.dtype == to.dtype && from.rows == to.rows && from.cols == to.cols);
  constexpr int64_t kLine = 64;
  const int64_t bytes = from.cols * int64_t(dtype_size(from.dtype));
  const int64_t lines = (bytes + kLine - 1) / kLine;
  const int64_t begin = lines * stream.index() / stream.count() * kLine;
  const int64_t end = std::min(lines * (stream.index() + 1) / stream.count() * kLine, bytes);
  for (int64_t r = 0; begin < end && r < from.rows; ++r) {
    std::memcpy(to.row<std::byte>(r) + begin, from.row<std::byte>(r) + begin, size_t(end - begin));
  }
  stream.barrier();
}

/// Calls work(begin, end) with this thread's columns of x, in whole cache lines of float32.
template <typename Work>
void for_my_columns(CpuStream& stream, const TensorView& x, Work&& work) {
  CONVOKE_CHECK(x.dtype == DType::kFloat32);
  const int64_t lines = (x.cols + 15) / 16;
  const int64_t begin = lines * stream.index() / stream.count() * 16;
  const int64_t end = std::min(lines * (stream.index() + 1) / stream.count() * 16, x.cols);
  if (begin < end) work(begin, end);
  stream.barrier();
}

class CpuBackend final : public Backend {
 public:
  CpuBackend(std::shared_ptr<Team> team, Isa isa)
      : isa_(isa), team_(std::move(team)), scratch_(team_->threads()) {}

  std::unique_ptr<Backend> sibling() override { return std::make_unique<CpuBackend>(team_, isa_); }

  std::string describe() const override {
    return fmt::format("cpu ({}, {} thread{})", isa_name(isa_), team_->threads(),
                       team_->threads() == 1 ? "" : "s");
  }

  bool shares_host_memory() const override { return true; }
  std::unique_ptr<Buffer> allocate(size_t bytes) override { return allocate_buffer(bytes); }
  std::unique_ptr<Buffer> allocate_host(size_t bytes) override { return allocate_buffer(bytes); }

  std::unique_ptr<PackedMatrix> pack(const MatrixSource& source) override {
    CONVOKE_CHECK(source.random.empty());
    auto matrix = pack_matrix(*team_, arena_, source);
    scratch_.reserve(matrix->layout());
    return matrix;
  }
  void adopt(const PackedMatrix& matrix) override {
    scratch_.reserve(static_cast<const CpuPackedMatrix&>(matrix).layout());
  }

  size_t kv_block_bytes(const KvShape& shape) const override { return cpu::kv_block_bytes(shape); }

  void reserve(const PassLimits&) override {}  // pack() has: scratch depends on matrices alone

  using Backend::run;
  void run(const PassArrays&, FunctionRef<void(Stream&)> program) override {
    team_->run([&](CpuStream& stream) { program(stream); });
  }

  void copy(Stream& stream, const TensorView& from, const TensorView& to) override {
    copy_matrix(cpu_stream(stream), from, to);
  }

  void embed(Stream& stream, const EmbedArgs& args) override {
    cpu::embed(cpu_stream(stream), isa_, args);
  }
  void rms_norm(Stream& stream, const RmsNormArgs& args) override {
    cpu::rms_norm(cpu_stream(stream), isa_, args);
  }
  void matmul(Stream& stream, const MatmulArgs& args) override {
    cpu::matmul(cpu_stream(stream), isa_, scratch_, args);
  }
  void rope_append(Stream& stream, const RopeAppendArgs& args) override {
    cpu::rope_append(cpu_stream(stream), isa_, args);
  }
  void attention(Stream& stream, const AttentionArgs& args) override {
    cpu::attention(cpu_stream(stream), isa_, args);
  }
  void rope_attention(Stream& stream, const RopeAppendArgs& rope,
                      const AttentionArgs& args) override {
    cpu::rope_attention(cpu_stream(stream), isa_, rope, args);
  }
  void silu_mul(Stream& stream, const SiluMulArgs& args) override {
    cpu::silu_mul(cpu_stream(stream), isa_, args);
  }
  void add_bias(Stream& stream, const TensorView& x, const float* bias) override {
    for_my_columns(cpu_stream(stream), x, [&](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < x.rows; ++r) {
        float* row = x.row<float>(r);
        for (int64_t c = begin; c < end; ++c) row[c] += bias[c];
      }
    });
  }
  void fill_zero(Stream& stream, const TensorView& x) override {
    for_my_columns(cpu_stream(stream), x, [&](int64_t begin, int64_t end) {
      for (int64_t r = 0; r < x.rows; ++r) {
        std::fill(x.row<float>(r) + begin, x.row<float>(r) + end, 0.0f);
      }
    });
  }
  void fill_random(Stream& stream, const RandomSlice& slice, const TensorView& x) override {
    const CpuStream& thread = cpu_stream(stream);
    RandomSlice mine = slice;
    mine.row += x.rows * thread.index() / thread.count();
    const int64_t end = x.rows * (thread.index() + 1) / thread.count();
    convoke::fill_random(mine, x.row_range(mine.row - slice.row, end));
    cpu_stream(stream).barrier();
  }
  void copy_rows(Stream& stream, const CopyRowsArgs& args) override {
    cpu::copy_rows(cpu_stream(stream), args);
  }
  void convert(Stream& stream, const TensorView& x, const TensorView& y) override {
    cpu::convert(cpu_stream(stream), x, y);
  }
  void move_kv(Stream& stream, std::span<const KvLayer> layers,
               std::span<const KvMove> moves) override {
    cpu::move_kv(cpu_stream(stream), isa_, layers, moves);
  }
  void pick_slice(Stream& stream, const PickSliceArgs& args) override {
    cpu::pick_slice(cpu_stream(stream), isa_, args);
  }
  void pick_full(Stream& stream, const PickFullArgs& args) override {
    cpu::pick_full(cpu_stream(stream), isa_, args);
  }
  void rank(Stream& stream, const RankArgs& args) override {
    cpu::rank(cpu_stream(stream), isa_, args);
  }

 private:
  const Isa isa_;
  const std::shared_ptr<Team> team_;
  Arena arena_;
  MatmulScratch scratch_;
};

}  // namespace

std::unique_ptr<Backend> make_cpu_backend(const CpuOptions& options) {
  if (options.threads < 1) {
    throw_error(ErrorKind::kUsage, "the CPU backend needs at least one thread, not {}",
                options.threads);
  }
  if (options.isa > best_isa()) {
    throw_error(ErrorKind::kUsage,
                "this machine cannot run the instruction set '{}': the best it has is '{}'",
                isa_name(options.isa), isa_name(best_isa()));
  }
  return std::make_unique<CpuBackend>(std::make_shared<Team>(options.threads, options.pin_threads),
                                      options.isa);
}

}  // namespace convoke::cpu
