#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>
#include <vector>

#include "kernels/cpu/buffer.h"
#include "kernels/cpu/cpu_backend.h"
#include "kernels/cpu/measure.h"

namespace convoke::cpu {
namespace {

TEST(CpuBackend, SaysWhatItIs) {
  EXPECT_EQ(make_cpu_backend({.threads = 1, .isa = Isa::kPortable})->describe(),
            "cpu (portable, 1 thread)");
  EXPECT_EQ(make_cpu_backend({.threads = 3, .isa = Isa::kPortable})->describe(),
            "cpu (portable, 3 threads)");
}

TEST(CpuBackend, RefusesWhatTheMachineLacks) {
  EXPECT_THROW(make_cpu_backend({.threads = 0}), Error);
  if (best_isa() == Isa::kAmxBf16) GTEST_SKIP() << "this machine has everything";
  try {
    make_cpu_backend({.threads = 1, .isa = Isa::kAmxBf16});
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    EXPECT_NE(std::string(error.what()).find("amx-bf16"), std::string::npos);
  }
}

TEST(CpuBackend, BuffersAreAlignedAndWritable) {
  const auto backend = make_cpu_backend({.threads = 1});
  for (size_t bytes :
       {size_t(0), size_t(1), size_t(63), size_t(4097), size_t(1) << 20, (size_t(5) << 20) + 3}) {
    const auto buffer = backend->allocate(bytes);
    EXPECT_EQ(buffer->bytes(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % 64, 0u);
    if (bytes >= size_t(1) << 20) {
      EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % (size_t(2) << 20), 0u);
    }
    if (bytes > 0) std::memset(buffer->data(), 0xab, bytes);
  }
}

TEST(CpuBackend, TooLargeABufferIsAnErrorOfResources) {
  const auto backend = make_cpu_backend({.threads = 1});
  for (size_t bytes : {SIZE_MAX, SIZE_MAX / 2}) {
    try {
      backend->allocate(bytes);
      FAIL();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kResource);
    }
  }
}

TEST(Arena, PiecesDoNotOverlapAndOutliveTheArena) {
  std::vector<Arena::Piece> pieces;
  {
    Arena arena;
    for (size_t bytes : {size_t(1), size_t(5000), size_t(40) << 20, size_t(20) << 20,
                         size_t(20) << 20, size_t(20) << 20, size_t(0), size_t(4096)}) {
      pieces.push_back(arena.allocate(bytes));
      std::memset(pieces.back().data, int(pieces.size()), bytes);
    }
  }
  EXPECT_EQ(pieces[0].data[0], std::byte{1});
  EXPECT_EQ(pieces[1].data[4999], std::byte{2});
  for (size_t i : {3, 4, 5}) {
    EXPECT_EQ(pieces[i].data[0], std::byte(i + 1));
    EXPECT_EQ(pieces[i].data[(size_t(20) << 20) - 1], std::byte(i + 1));
  }
}

TEST(CpuBackend, AddsBiasAndFillsWithZeros) {
  for (int threads : {1, 3}) {
    const auto backend = make_cpu_backend({.threads = threads});
    for (int64_t cols : {1, 16, 37}) {
      constexpr int64_t kRows = 3;
      const int64_t stride = cols + 2;
      std::vector<float> x(static_cast<size_t>(kRows * stride), 7.0f), bias;
      for (int64_t c = 0; c < cols; ++c) bias.push_back(0.5f * float(c));
      const TensorView view{x.data(), DType::kFloat32, kRows, cols, stride};
      backend->run([&](Stream& stream) { backend->add_bias(stream, view, bias.data()); });
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < stride; ++c) {
          EXPECT_EQ(x[size_t(r * stride + c)], c < cols ? 7.0f + 0.5f * float(c) : 7.0f);
        }
      }
      backend->run([&](Stream& stream) { backend->fill_zero(stream, view); });
      for (int64_t r = 0; r < kRows; ++r) {
        for (int64_t c = 0; c < stride; ++c) {
          EXPECT_EQ(x[size_t(r * stride + c)], c < cols ? 0.0f : 7.0f);
        }
      }
    }
  }
}

TEST(CpuBackend, CopiesAndAddsRows) {
  for (int threads : {1, 3}) {
    const auto backend = make_cpu_backend({.threads = threads});
    std::vector<float> x = {1, 2, 3, 4, 5, 6}, y(8, 7.0f);
    const TensorView from = TensorView::matrix(x.data(), DType::kFloat32, 3, 2);
    const TensorView to = TensorView::matrix(y.data(), DType::kFloat32, 4, 2);
    const std::vector<int32_t> sources = {2, -1, 0, 1}, targets = {0, 1, -1, 3};
    const CopyRowsArgs args{from, to, sources, targets};
    backend->run([&](Stream& stream) { backend->copy_rows(stream, args); });
    EXPECT_EQ(y, (std::vector<float>{5, 6, 0, 0, 7, 7, 3, 4}));
    backend->run([&](Stream& stream) {
      backend->copy_rows(stream, {.x = from, .y = to, .to = {&targets[1], 3}, .accumulate = true});
    });
    EXPECT_EQ(y, (std::vector<float>{5, 6, 1, 2, 7, 7, 8, 10}));
    backend->run([&](Stream& stream) {
      backend->copy_rows(stream, {.x = to, .y = from.row_range(0, 1), .from = {&sources[0], 1}});
    });
    EXPECT_EQ(x, (std::vector<float>{7, 7, 3, 4, 5, 6}));
  }
}

TEST(CpuBackend, PacksAndMultipliesThroughTheInterface) {
  const auto backend = make_cpu_backend({.threads = 2});
  std::vector<float> weights = {1, 2, 3, 4, 5, 6}, x = {1, 10, 100}, y(2), bias = {0.5f, -0.5f};
  const auto packed =
      backend->pack({.parts = {TensorView::matrix(weights.data(), DType::kFloat32, 2, 3)},
                     .dtype = DType::kFloat32,
                     .groups = 1});
  backend->run([&](Stream& stream) {
    backend->matmul(stream, {.x = TensorView::matrix(x.data(), DType::kFloat32, 1, 3),
                             .weights = packed.get(),
                             .bias = bias.data(),
                             .y = TensorView::matrix(y.data(), DType::kFloat32, 1, 2)});
  });
  EXPECT_EQ(y, (std::vector<float>{321.5f, 653.5f}));
}

TEST(CpuBackend, AnExceptionInAProgramReachesTheCaller) {
  const auto backend = make_cpu_backend({.threads = 2});
  EXPECT_THROW(backend->run([](Stream& stream) {
    if (cpu_stream(stream).index() == 1) throw Error(ErrorKind::kPeer, "gone");
    cpu_stream(stream).barrier();
  }),
               Error);
}

TEST(Measure, BandwidthIsThatOfTheBufferAskedFor) {
  const auto backend = make_cpu_backend({.threads = 2});
  for (size_t bytes : {size_t(0), size_t(100), size_t(3) << 20}) {
    EXPECT_GT(measure_read_bandwidth(*backend, bytes), 0.0);
  }
}

}  // namespace
}  // namespace convoke::cpu
