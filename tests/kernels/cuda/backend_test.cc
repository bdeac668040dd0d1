// The CUDA backend on emulated devices by itself: its errors, and what it does with memory.
#include <gmock/gmock.h>

#include "tests/kernels/cuda/backend_fixture.h"

namespace convoke::cuda {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

/// The message of the Error that `work` throws, or nothing.
template <typename Work>
std::string error_of(Work work) {
  try {
    work();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

class Devices {  // for the length of a test
 public:
  explicit Devices(int count, int major = 9) { emulation::set_devices(count, major); }
  ~Devices() {
    emulation::set_devices(2);
    emulation::limit_device_bytes(uint64_t{1} << 40);
  }
};

TensorView floats(void* data, int64_t rows, int64_t columns) {
  return TensorView::matrix(data, DType::kFloat32, rows, columns);
}

TEST(CudaBackend, SaysWhatToDoWithoutADevice) {
  const Devices none(0);
  EXPECT_THAT(error_of([] { make_cuda_backend({}); }),
              AllOf(HasSubstr("no CUDA device can be used"), HasSubstr("nvidia-smi"),
                    HasSubstr("--device cpu")));
}

TEST(CudaBackend, SaysWhichDevicesThereAre) {
  const Devices two(2);
  EXPECT_THAT(error_of([] { make_cuda_backend({.device = 2}); }),
              AllOf(HasSubstr("CUDA device 2 does not exist, there are 2"),
                    HasSubstr("CUDA_VISIBLE_DEVICES")));
}

TEST(CudaBackend, RefusesDevicesThatAreTooOld) {
  const Devices old(1, 7);
  EXPECT_THAT(error_of([] { make_cuda_backend({}); }),
              AllOf(HasSubstr("compute capability 7.0"), HasSubstr("8.0 or later")));
}

TEST(CudaBackend, SaysWhatMemoryWasForWhenItRunsOut) {
  const Devices two(2);
  emulation::limit_device_bytes(emulation::device_bytes() + 1000000);
  EXPECT_THAT(
      error_of([] { make_cuda_backend({})->allocate(1500000); }),
      AllOf(HasSubstr("1.5 MB for weights, activations or the cache"), HasSubstr("out of memory")));
}

TEST(CudaBackend, FreesAllItTook) {
  const uint64_t before = emulation::device_bytes();
  {
    testing::TestReplica replica(kGoldenModels / "llama-gqa-bf16",
                                 on_gpus({.tp = 2}, DType::kBFloat16));
    EXPECT_GT(emulation::device_bytes(), before);
  }
  EXPECT_EQ(emulation::device_bytes(), before);
}

TEST(CudaBackend, RefusesModelsWithHeadsThatItCannotCompute) {
  EXPECT_THAT(error_of([] {
                const auto backend = make_cuda_backend({});
                backend->reserve({.rows = 4, .heads = 8, .kv_heads = 8, .head_dim = 6});
              }),
              AllOf(HasSubstr("heads of 6 elements"), HasSubstr("multiples of 8 up to 256"),
                    HasSubstr("--device cpu")));
}

TEST(CudaBackend, CopiesColumnsBothWaysAndBetweenSiblings) {
  const auto backend = make_cuda_backend({});
  const auto sibling = backend->sibling();
  EXPECT_EQ(backend->describe(), "cuda (emulated, device 0)");
  const auto memory = backend->allocate(12 * sizeof(float));
  const auto pinned = backend->allocate_host(6 * sizeof(float));
  std::vector<float> from(12), to(6, 0.0f);
  for (size_t i = 0; i < from.size(); ++i) from[i] = float(i);
  const TensorView device = floats(memory->data(), 3, 4);
  backend->run([&](Stream& stream) { backend->copy(stream, floats(from.data(), 3, 4), device); });
  sibling->run([&](Stream& stream) {
    sibling->copy(stream, device.col_range(1, 3), floats(to.data(), 3, 2));
    sibling->copy(stream, device.col_range(1, 3), floats(pinned->data(), 3, 2));
  });
  const std::vector<float> want{1, 2, 5, 6, 9, 10};
  EXPECT_EQ(to, want);
  const auto* const there = static_cast<const float*>(pinned->data());
  EXPECT_EQ(std::vector<float>(there, there + 6), want);
}

/// A row of logits on the device, and a pick from it.
struct PickedRow {
  explicit PickedRow(std::vector<float> values)
      : backend(make_cuda_backend({})), logits(*backend, values) {
    backend->reserve({.rows = 1,
                      .logit_rows = 1,
                      .sequences = 1,
                      .positions = 8,
                      .heads = 1,
                      .kv_heads = 1,
                      .head_dim = 8,
                      .vocabulary = int64_t(values.size())});
  }
  TensorView view() const {
    return floats(const_cast<float*>(logits.data()), 1, int64_t(logits.size()));
  }
  std::unique_ptr<Backend> backend;
  FloatArray logits;
};

TEST(CudaBackend, TakesMoreEditsThanThereIsUsuallyRoomFor) {
  PickedRow row({5, 4, 3, 2});
  // Most of them for tokens that are not in this slice.
  std::vector<LogitEdit> edits{{0, 1.0f, -4.0f}, {2, 1.0f, 2.5f}};
  for (int32_t token = 100; token < 40000; ++token) edits.push_back({token, 1.0f, 100.0f});
  const std::vector<PickRow> params{{.edits = edits}};
  std::vector<Pick> picks(1);
  for (int i = 0; i < 2; ++i) {
    picks[0] = {};
    row.backend->run({.picks = {params}}, [&](Stream& stream) {
      row.backend->pick_slice(stream, {row.view(), 0, params, picks});
    });
    EXPECT_EQ(picks[0].token, 2);
    EXPECT_EQ(picks[0].score, 5.5f);
  }
}

TEST(CudaBackend, HandsOutPicksWhenHostCodeBegins) {
  PickedRow row({1, 7, 3});
  const std::vector<PickRow> params(1);
  std::vector<Pick> first(1), second(1);
  row.backend->run({.picks = {params}}, [&](Stream& stream) {
    EXPECT_TRUE(stream.leads());
    row.backend->pick_slice(stream, {row.view(), 0, params, first});
    EXPECT_EQ(first[0].token, -1) << "nothing has run yet";
    EXPECT_EQ(stream.host().count(), 1);
    EXPECT_EQ(first[0].token, 1);
    first[0].token = 99;  // the host's own from here on
    row.backend->pick_slice(stream, {row.view(), 16, params, second});
  });
  EXPECT_EQ(first[0].token, 99);
  EXPECT_EQ(second[0].token, 17);
}

TEST(CudaBackend, CanBeUsedAgainAfterAProgramThatFailed) {
  PickedRow row({1, 7, 3});
  const std::vector<PickRow> params(1);
  std::vector<Pick> picks(1);
  const auto pick = [&](Stream& stream) {
    row.backend->pick_slice(stream, {row.view(), 0, params, picks});
  };
  EXPECT_EQ(error_of([&] {
              row.backend->run({.picks = {params}}, [&](Stream& stream) {
                pick(stream);
                throw_error(ErrorKind::kPeer, "a peer is gone");
              });
            }),
            "a peer is gone");
  EXPECT_EQ(picks[0].token, -1);
  row.backend->run({.picks = {params}}, pick);
  EXPECT_EQ(picks[0].token, 1);
}

class CudaBackendDeathTest : public ::testing::Test {
 protected:
  CudaBackendDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(CudaBackendDeathTest, DeviceMemoryCannotBeReadByTheHost) {
  EXPECT_DEATH(
      {
        const auto memory = make_cuda_backend({})->allocate(64);
        const volatile char read = *static_cast<char*>(memory->data());
        std::exit(read);
      },
      "");
}

TEST_F(CudaBackendDeathTest, ArraysMustBeAnnounced) {
  EXPECT_DEATH(
      {
        PickedRow row({1, 2});
        const std::vector<PickRow> params(1);
        std::vector<Pick> picks(1);
        row.backend->run([&](Stream& stream) {
          row.backend->pick_slice(stream, {row.view(), 0, params, picks});
        });
      },
      "was not announced");
}

TEST_F(CudaBackendDeathTest, KernelsDoNotGetHostMemory) {
  EXPECT_DEATH(
      {
        const auto backend = make_cuda_backend({});
        const std::vector<float> bias(4);
        const auto memory = backend->allocate(16);
        backend->run([&](Stream& stream) {
          backend->add_bias(stream, floats(memory->data(), 1, 4), bias.data());
        });
      },
      "is an address in host memory");
}

}  // namespace
}  // namespace convoke::cuda
