#include "kernels/cpu/elementwise.h"

#include "kernels/cpu/attention.h"
#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {
namespace {

using cpu::GuardedMatrix;

constexpr auto kPath = cpu::Isa::kPortable;

struct Extent {
  int64_t rows, columns;
};
const std::vector<Extent> kExtents = {{1, 1}, {1, 255}, {3, 257}, {64, 8}, {5, 1000}, {0, 4}};

TEST(CudaElementwise, EmbedsAsTheCpuDoes) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int32_t first : {0, 40}) {
      for (const int64_t columns : {1, 300}) {
        Normal normal(1);
        // Look-ahead embeddings are float32 whatever the table is, or have its type.
        GuardedMatrix table(dtype, 50, columns, 3);
        GuardedMatrix lookahead(first == 0 ? DType::kFloat32 : dtype, 4, columns, 1);
        table.fill(normal), lookahead.fill(normal);
        cpu::store(table.view(), 1, 0, -0.0f);
        const std::vector<int32_t> tokens = {1, 49, -1, 39, 40, 89, 90, -4, 2000000000, 0};
        GuardedMatrix want(DType::kFloat32, 10, columns, 2), got(DType::kFloat32, 10, columns, 2);
        EmbedArgs args{tokens, table.view(), first, lookahead.view(), want.view()};
        cpu::run_team(1, [&](cpu::CpuStream& stream) { cpu::embed(stream, kPath, args); });
        args.x = got.view();
        on_device::embed(args);
        EXPECT_TRUE(same_bits(got.view(), want.view()));
      }
    }
  }
}

TEST(CudaElementwise, NeedsNoLookaheadTable) {
  Normal normal(1);
  GuardedMatrix table(DType::kBFloat16, 5, 40), x(DType::kFloat32, 2, 40);
  table.fill(normal);
  const std::vector<int32_t> tokens = {4, 2};
  on_device::embed({tokens, table.view(), 0, {}, x.view()});
  EXPECT_EQ(cpu::load(x.view(), 0, 39), cpu::load(table.view(), 4, 39));
}

TEST(CudaElementwise, CopiesRowsAsTheCpuDoes) {
  const std::vector<int32_t> from = {4, -1, 0, 4, 2}, to = {6, 3, -1, 0, 5};
  struct Lists {
    std::vector<int32_t> from, to;
    int64_t x_rows;
  };
  const Lists cases[] = {{from, to, 5}, {from, {}, 5}, {{}, to, 5}, {{}, {}, 7}};
  for (const DType x_type : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const DType y_type : {DType::kFloat32, DType::kBFloat16}) {
      for (const Lists& lists : cases) {
        for (const bool accumulate : {false, true}) {
          if (accumulate && (x_type != DType::kFloat32 || y_type != DType::kFloat32)) continue;
          Normal normal(4);
          GuardedMatrix x(x_type, lists.x_rows, 300, 3);
          GuardedMatrix want(y_type, 7, 300, 1), got(y_type, 7, 300, 1);
          x.fill(normal), want.fill(normal);
          for (int64_t r = 0; r < 7; ++r) {
            for (int64_t c = 0; c < 300; ++c) {
              cpu::store(got.view(), r, c, cpu::load(want.view(), r, c));
            }
          }
          CopyRowsArgs args{x.view(), want.view(), lists.from, lists.to, accumulate};
          cpu::run_team(3, [&](cpu::CpuStream& stream) { cpu::copy_rows(stream, args); });
          args.y = got.view();
          on_device::copy_rows(args);
          EXPECT_TRUE(same_bits(got.view(), want.view()));
        }
      }
    }
  }
}

TEST(CudaElementwise, CopiesPaddingRowsAsNanAndRoundsToFloat16) {
  GuardedMatrix x(DType::kFloat32, 1, 3), y(DType::kFloat16, 3, 3);
  for (int c = 0; c < 3; ++c) cpu::store(x.view(), 0, c, 1.0f + 0x1p-12f + float(c));
  const std::vector<int32_t> from = {kPaddingToken, 0, -1};
  on_device::copy_rows({x.view(), y.view(), from, {}});
  for (int c = 0; c < 3; ++c) {
    EXPECT_TRUE(std::isnan(cpu::load(y.view(), 0, c)));
    EXPECT_EQ(cpu::load(y.view(), 1, c), 1.0f + float(c));
    EXPECT_EQ(cpu::load(y.view(), 2, c), 0.0f);
  }
}

TEST(CudaElementwise, MultipliesBySilu) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const Extent& extent : kExtents) {
      Normal normal(2, 4);
      GuardedMatrix x(DType::kFloat32, extent.rows, 2 * extent.columns, 5);
      x.fill(normal);
      GuardedMatrix want(DType::kFloat32, extent.rows, extent.columns);
      GuardedMatrix got(dtype, extent.rows, extent.columns, 2);
      cpu::run_team(1, [&](cpu::CpuStream& stream) {
        cpu::silu_mul(stream, kPath, {x.view(), want.view()});
      });
      on_device::silu_mul({x.view(), got.view()});
      EXPECT_TRUE(near(got.view(), want.view(), rounding(dtype) + 1e-6, 1e-7));
    }
  }
}

TEST(CudaElementwise, SiluOfTheExtremes) {
  GuardedMatrix x(DType::kFloat32, 1, 12), y(DType::kFloat32, 1, 6);
  const float gates[] = {-1000, -90, 0, 90, 1000, -INFINITY};
  for (int i = 0; i < 6; ++i)
    cpu::store(x.view(), 0, i, gates[i]), cpu::store(x.view(), 0, 6 + i, 1);
  on_device::silu_mul({x.view(), y.view()});
  EXPECT_EQ(cpu::load(y.view(), 0, 0), 0);
  EXPECT_NEAR(cpu::load(y.view(), 0, 1), 0, 1e-36);
  EXPECT_EQ(cpu::load(y.view(), 0, 2), 0);
  EXPECT_EQ(cpu::load(y.view(), 0, 3), 90);
  EXPECT_EQ(cpu::load(y.view(), 0, 4), 1000);
  EXPECT_TRUE(std::isnan(cpu::load(y.view(), 0, 5)));  // -inf * 0, as on the CPU
}

TEST(CudaElementwise, AddsBiasesFillsAndConverts) {
  for (const Extent& extent : kExtents) {
    Normal normal(3);
    GuardedMatrix x(DType::kFloat32, extent.rows, extent.columns, 4);
    GuardedMatrix bias(DType::kFloat32, 1, extent.columns);
    x.fill(normal), bias.fill(normal);
    GuardedMatrix before(DType::kFloat32, extent.rows, extent.columns);
    on_device::convert(x.view(), before.view());
    EXPECT_TRUE(same_bits(x.view(), before.view()));
    on_device::add_bias(x.view(), bias.view().row<float>(0));
    for (int64_t r = 0; r < extent.rows; ++r) {
      for (int64_t c = 0; c < extent.columns; ++c) {
        ASSERT_EQ(cpu::load(x.view(), r, c),
                  cpu::load(before.view(), r, c) + cpu::load(bias.view(), 0, c));
      }
    }
    // Features of three layers side by side.
    GuardedMatrix want(DType::kBFloat16, extent.rows, extent.columns);
    GuardedMatrix wide(DType::kBFloat16, extent.rows, 3 * extent.columns, 1);
    const TensorView middle = wide.view().col_range(extent.columns, 2 * extent.columns);
    cpu::run_team(1, [&](cpu::CpuStream& s) { cpu::convert(s, x.view(), want.view()); });
    on_device::convert(x.view(), middle);
    EXPECT_TRUE(same_bits(middle, want.view()));
    on_device::fill_zero(middle);
    for (int64_t r = 0; r < extent.rows; ++r) {
      for (int64_t c = 0; c < 3 * extent.columns; ++c) {
        const bool inside = extent.columns <= c && c < 2 * extent.columns;
        ASSERT_EQ(std::isnan(cpu::load(wide.view(), r, c)), !inside) << "written beside the view";
      }
    }
  }
}

/// Rows of a pass of random extents, through what a layer does to them beside products and
/// attention.
TEST(CudaElementwise, RandomShapesMatchTheCpu) {
  Normal random(21);
  const DType dtypes[] = {DType::kFloat32, DType::kBFloat16, DType::kFloat16};
  for (int i = 0; i < (kOnGpu ? 300 : kSanitized ? 6 : 24); ++i) {
    const DType dtype = dtypes[i % 3];
    const int64_t rows = i < 2 ? 1 + 63 * i : 1 + random.below(64), columns = 1 + random.below(700);
    SCOPED_TRACE(testing::Message() << rows << " x " << columns << ", " << dtype_name(dtype));
    GuardedMatrix table(dtype, 20, columns, 2), x(DType::kFloat32, rows, columns, random.below(5));
    GuardedMatrix want(DType::kFloat32, rows, columns), got(dtype, rows, columns, random.below(5));
    GuardedMatrix weight(DType::kFloat32, 1, columns), wide(DType::kFloat32, rows, 2 * columns, 1);
    table.fill(random), weight.fill(random), wide.fill(random);
    std::vector<int32_t> tokens, gather;
    for (int64_t r = 0; r < rows; ++r) tokens.push_back(random.below(20));
    EmbedArgs embedding{tokens, table.view(), 0, {}, want.view()};
    cpu::run_team(1, [&](cpu::CpuStream& stream) { cpu::embed(stream, kPath, embedding); });
    embedding.x = x.view();
    on_device::embed(embedding);
    ASSERT_TRUE(same_bits(x.view(), want.view()));

    for (int64_t r = 0; r < rows; ++r) gather.push_back(random.below(int(rows)));
    RmsNormArgs norm{x.view(), weight.view().row<float>(0), 1e-5f, want.view(), gather};
    cpu::run_team(1, [&](cpu::CpuStream& stream) { cpu::rms_norm(stream, kPath, norm); });
    norm.y = got.view();
    on_device::rms_norm(norm);
    const double tiny = dtype == DType::kFloat16 ? 0x1p-25 : 1e-30;  // of its subnormals
    ASSERT_TRUE(near(got.view(), want.view(), rounding(dtype) + 3e-6, tiny));

    cpu::run_team(1, [&](cpu::CpuStream& stream) {
      cpu::silu_mul(stream, kPath, {wide.view(), want.view()});
    });
    on_device::silu_mul({wide.view(), got.view()});
    ASSERT_TRUE(near(got.view(), want.view(), rounding(dtype) + 1e-6, 1e-7));
  }
}

TEST(CudaNorm, MatchesTheCpu) {
  for (const DType dtype : {DType::kFloat32, DType::kBFloat16, DType::kFloat16}) {
    for (const int64_t columns : {1, 31, 256, 257, 1000, 4096}) {
      Normal normal(4);
      GuardedMatrix x(DType::kFloat32, 6, columns, 3), weight(DType::kFloat32, 1, columns);
      x.fill(normal), weight.fill(normal);
      const std::vector<int32_t> gather = {5, 0, 5, 2};
      GuardedMatrix want(DType::kFloat32, 4, columns), got(dtype, 4, columns, 2);
      RmsNormArgs args{x.view(), weight.view().row<float>(0), 1e-5f, want.view(), gather};
      cpu::run_team(1, [&](cpu::CpuStream& stream) { cpu::rms_norm(stream, kPath, args); });
      args.y = got.view();
      under_every_schedule([&] {
        on_device::rms_norm(args);
        const double tiny = dtype == DType::kFloat16 ? 0x1p-25 : 1e-30;  // of its subnormals
        EXPECT_TRUE(near(got.view(), want.view(), rounding(dtype) + 3e-6, tiny));
      });
    }
  }
}

TEST(CudaNorm, AddsTheResidualFirst) {
  for (const int64_t columns : {7, 300}) {
    Normal normal(5);
    GuardedMatrix x(DType::kFloat32, 3, columns, 2), addend(DType::kFloat32, 3, columns, 1);
    GuardedMatrix weight(DType::kFloat32, 1, columns), want(DType::kFloat32, 3, columns);
    GuardedMatrix got(DType::kFloat32, 3, columns), sum(DType::kFloat32, 3, columns);
    x.fill(normal), addend.fill(normal), weight.fill(normal);
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t c = 0; c < columns; ++c) {
        cpu::store(sum.view(), r, c, cpu::load(x.view(), r, c) + cpu::load(addend.view(), r, c));
      }
    }
    const float* const w = weight.view().row<float>(0);
    on_device::rms_norm({sum.view(), w, 1e-6f, want.view(), {}});
    on_device::add_rms_norm({x.view(), w, 1e-6f, got.view(), {}}, addend.view());
    EXPECT_TRUE(same_bits(x.view(), sum.view()));
    EXPECT_TRUE(same_bits(got.view(), want.view()));
    on_device::rms_norm({x.view(), w, 1e-6f, x.view(), {}});
    EXPECT_TRUE(same_bits(x.view(), want.view())) << "in place";
  }
}

TEST(CudaNorm, RowsDoNotMeet) {
  Normal normal(6);
  GuardedMatrix x(DType::kFloat32, 3, 500), weight(DType::kFloat32, 1, 500);
  GuardedMatrix all(DType::kFloat32, 3, 500), one(DType::kFloat32, 1, 500);
  x.fill(normal), weight.fill(normal);
  for (int64_t c = 0; c < 500; ++c) cpu::store(x.view(), 0, c, kNan);
  const float* const w = weight.view().row<float>(0);
  on_device::rms_norm({x.view(), w, 1e-6f, all.view(), {}});
  on_device::rms_norm({x.view().row_range(2, 3), w, 1e-6f, one.view(), {}});
  EXPECT_TRUE(same_bits(all.view().row_range(2, 3), one.view()));
}

}  // namespace
}  // namespace convoke::cuda
