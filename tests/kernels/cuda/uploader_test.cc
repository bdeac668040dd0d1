// Weights on their way to the device: what arrives, that reading and copying go on side by side,
// and what is left after a reader's error.
#include "kernels/cuda/uploader.h"

#include <gmock/gmock.h>

#include <latch>
#include <mutex>
#include <set>
#include <thread>

#include "kernels/check.h"
#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke::cuda {
namespace {

using ::testing::HasSubstr;

/// Consecutive numbers of 16 bits.
std::vector<uint16_t> numbers(size_t count) {
  std::vector<uint16_t> values(count);
  for (size_t i = 0; i < count; ++i) values[i] = uint16_t(i * 7 + i / 65536);
  return values;
}

std::vector<uint16_t> on_host(const DeviceBuffer& memory) {
  std::vector<uint16_t> values(memory.bytes() / 2);
  CUstream_st* const stream = create_stream();
  enqueue_copy(stream, values.data(), memory.bytes(), memory.data(), memory.bytes(), memory.bytes(),
               1);
  synchronise(stream);
  destroy_stream(stream);
  return values;
}

TensorView view_of(std::vector<uint16_t>& values, int64_t rows, int64_t cols) {
  return TensorView::matrix(values.data(), DType::kBFloat16, rows, cols);
}

TEST(Uploader, WhatArrivesIsWhatWasThere) {
  auto values = numbers(100 * 64);
  const TensorView whole = view_of(values, 100, 64);
  // Whole rows, columns of rows, a single piece, pieces of one row, rows larger than a piece.
  const TensorView views[] = {whole, whole.row_range(3, 98), whole.col_range(8, 40),
                              whole.row_range(5, 6), whole.row_range(0, 0)};
  for (const size_t piece : {size_t(1), size_t(128), size_t(1000), size_t(1) << 20}) {
    for (const int readers : {1, 3, 4}) {
      Uploader uploader({.readers = readers, .piece_bytes = piece});
      for (const TensorView& view : views) {
        const DeviceBuffer there(size_t(view.rows * view.cols) * 2, "a test");
        uploader.upload(view, static_cast<std::byte*>(there.data()), nullptr);
        std::vector<uint16_t> want;
        for (int64_t r = 0; r < view.rows; ++r) {
          want.insert(want.end(), view.row<uint16_t>(r), view.row<uint16_t>(r) + view.cols);
        }
        if (want.empty()) continue;
        EXPECT_EQ(on_host(there), want) << piece << " bytes, " << readers << " readers";
      }
      EXPECT_LE(uploader.pinned_bytes(), size_t(2 * readers) * std::max(piece, size_t(128)));
    }
  }
}

TEST(Uploader, ReadersReadAtTheSameTime) {
  auto values = numbers(64 * 64);
  const DeviceBuffer there(values.size() * 2, "a test");
  Uploader uploader({.readers = 4, .piece_bytes = 128});
  std::latch together(4);  // the first pieces of four readers, or the test hangs
  std::mutex mutex;
  std::vector<std::thread::id> threads;
  uploader.upload(view_of(values, 64, 64), static_cast<std::byte*>(there.data()),
                  [&](const TensorView& rows, std::byte* to) {
                    bool first = false;
                    {
                      const std::lock_guard lock(mutex);
                      first = std::ranges::count(threads, std::this_thread::get_id()) == 0;
                      if (first) threads.push_back(std::this_thread::get_id());
                    }
                    if (first) together.arrive_and_wait();
                    std::memcpy(to, rows.data, 128);
                  });
  EXPECT_EQ(threads.size(), 4u);
  EXPECT_EQ(on_host(there), values);
}

TEST(Uploader, APieceIsReadWhileTheOneBeforeIsCopied) {
  // An emulated stream copies when somebody waits for it: what is changed in a buffer before that
  // shows on the device.
  auto values = numbers(6 * 64);
  const DeviceBuffer there(values.size() * 2, "a test");
  Uploader uploader({.readers = 1, .piece_bytes = 128});
  std::vector<uint16_t*> buffers;
  uploader.upload(view_of(values, 6, 64), static_cast<std::byte*>(there.data()),
                  [&](const TensorView& rows, std::byte* to) {
                    if (!buffers.empty()) buffers.back()[0] = uint16_t(1000 + buffers.size());
                    std::memcpy(to, rows.data, 128);
                    buffers.push_back(reinterpret_cast<uint16_t*>(to));
                  });
  ASSERT_EQ(buffers.size(), 6u);
  EXPECT_EQ(std::set(buffers.begin(), buffers.end()).size(), 2u) << "two buffers by turns";
  std::vector<uint16_t> want = values;
  for (size_t i = 0; i < 5; ++i) want[i * 64] = uint16_t(1001 + i);
  EXPECT_EQ(on_host(there), want);
}

TEST(Uploader, OneErrorComesOutAndNothingStaysOnItsWay) {
  auto values = numbers(64 * 64);
  Uploader uploader({.readers = 4, .piece_bytes = 128});
  {
    const DeviceBuffer there(values.size() * 2, "a test");
    std::atomic<int> reads = 0;
    std::string error;
    try {
      uploader.upload(view_of(values, 64, 64), static_cast<std::byte*>(there.data()),
                      [&](const TensorView& rows, std::byte* to) {
                        if (++reads > 10) throw_error(ErrorKind::kResource, "f: tensor 't': gone");
                        std::memcpy(to, rows.data, 128);
                      });
    } catch (const Error& failure) {
      error = failure.what();
    }
    EXPECT_EQ(error, "f: tensor 't': gone");
    EXPECT_LE(reads, 10 + 4) << "the others stop, too";
  }
  const DeviceBuffer again(values.size() * 2, "a test");
  uploader.upload(view_of(values, 64, 64), static_cast<std::byte*>(again.data()), nullptr);
  EXPECT_EQ(on_host(again), values);
}

TEST(Uploader, PackingReadsAsTheSourceSays) {
  const auto backend = make_cuda_backend({});
  auto values = numbers(32 * 64);
  std::atomic<int64_t> rows_read = 0;
  const MatrixSource good{
      .parts = {view_of(values, 32, 64)},
      .read =
          [&](const TensorView& rows, std::byte* to) {
            rows_read += rows.rows;
            std::memcpy(to, rows.data, size_t(rows.rows * rows.cols) * 2);
          },
  };
  EXPECT_NE(backend->pack(good), nullptr);
  EXPECT_EQ(rows_read, 32);
  MatrixSource bad = good;
  bad.read = [](const TensorView&, std::byte*) {
    throw_error(ErrorKind::kResource, "model.safetensors: tensor 'w': cannot read");
  };
  const uint64_t before = emulation::device_bytes();
  try {
    backend->pack(bad);
    FAIL();
  } catch (const Error& error) {
    EXPECT_THAT(error.what(), HasSubstr("tensor 'w'"));
  }
  EXPECT_EQ(emulation::device_bytes(), before);
}

TEST(Uploader, LargeCopiesIntoABackendGoThroughIt) {
  const auto backend = make_cuda_backend({});
  auto values = numbers(3 << 20);
  const auto memory = backend->allocate(values.size() * 2);
  const TensorView there = TensorView::matrix(memory->data(), DType::kBFloat16, 3 << 10, 1 << 10);
  std::vector<uint16_t> back(values.size());
  const uint64_t before = emulation::device_counters().to_device;
  backend->run([&](Stream& stream) {
    backend->fill_zero(stream, there);  // before the copy, not after it
    backend->copy(stream, view_of(values, 3 << 10, 1 << 10), there);
    backend->copy(stream, there, view_of(back, 3 << 10, 1 << 10));
  });
  EXPECT_EQ(back, values);
  EXPECT_EQ(emulation::device_counters().to_device - before, 2u) << "6 MB in pieces of 4";
}

}  // namespace
}  // namespace convoke::cuda
