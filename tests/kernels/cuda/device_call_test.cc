// That launches for arguments in the host's memory (tests/support/cuda_device) are what the tests
// of kernels take them for.
#include "tests/kernels/cuda/fixture.h"

namespace convoke::cuda {
namespace {

using cpu::GuardedMatrix;

GuardedMatrix numbered(int64_t rows, int64_t columns, int64_t gap = 0) {
  GuardedMatrix matrix(DType::kFloat32, rows, columns, gap);
  int next = 0;
  matrix.fill([&] { return float(next++); });
  return matrix;
}

TEST(DeviceCall, CopiesBackWhatIsWrittenAndNothingElse) {
  const GuardedMatrix x = numbered(3, 5, 2), y = numbered(3, 5, 2), same = numbered(3, 5, 2);
  DeviceCall call;
  fill_zero(call.stream(), call.in(x.view()));
  fill_zero(call.stream(), call.out(y.view()));
  EXPECT_EQ(cpu::load(y.view(), 2, 4), 14) << "before anybody has waited";
  call.finish();
  EXPECT_TRUE(same_bits(x.view(), same.view()));
  for (int64_t r = 0; r < 3; ++r) {
    for (int64_t c = 0; c < 5; ++c) EXPECT_EQ(cpu::load(y.view(), r, c), 0);
  }
  EXPECT_TRUE(std::isnan(y.view().row<float>(1)[5])) << "what lies between the rows";
}

TEST(DeviceCall, MemoryThatIsNamedTwiceHasOneCopy) {
  const GuardedMatrix x = numbered(4, 6);
  DeviceCall call;
  const TensorView all = call.in(x.view()), row = call.out(x.view().row_range(2, 3));
  EXPECT_EQ(row.data, all.row<float>(2));
  fill_zero(call.stream(), row);
  call.finish();
  EXPECT_EQ(cpu::load(x.view(), 1, 5), 11);
  EXPECT_EQ(cpu::load(x.view(), 2, 0), 0);
}

TEST(DeviceCall, WorkSpaceAndFilledMemoryStartAsNan) {
  DeviceCall call;
  const Workspace workspace = call.workspace(40);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(workspace.data) % 256, 0u);
  call.finish();
  for (const float x : read_back(static_cast<const float*>(workspace.data), 10)) {
    EXPECT_TRUE(std::isnan(x));
  }
  const DeviceArray<int32_t> numbers(std::vector<int32_t>{3, 1, 4});
  EXPECT_EQ(numbers.read(), (std::vector<int32_t>{3, 1, 4}));
}

TEST(DeviceCall, ListsThatPointToListsPointToTheDevice) {
  const std::vector<LogitEdit> edits = {{2, 1.5f, 0.25f}, {7, 1, -1}};
  std::vector<PickRow> rows(3);
  rows[1].edits = edits, rows[2].edits = std::span(edits).subspan(1);
  DeviceCall call;
  const auto there = read_back(call.in(std::span<const PickRow>(rows)).data(), 3);
  EXPECT_TRUE(there[0].edits.empty());
  EXPECT_EQ(there[2].edits.data(), there[1].edits.data() + 1);
  EXPECT_EQ(read_back(there[1].edits.data(), 2)[1].token, 7);
  EXPECT_NE(there[1].edits.data(), edits.data());
}

#if !defined(CONVOKE_TEST_ON_GPU)
class DeviceCallDeathTest : public ::testing::Test {
 protected:
  DeviceCallDeathTest() { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(DeviceCallDeathTest, TheHostCannotTouchTheDevicesMemory) {
  const DeviceArray<float> array(std::vector<float>{1, 2});
  EXPECT_DEATH(std::printf("%f", array.data()[1]), "");
  EXPECT_DEATH(array.data()[0] = 3, "");
}

TEST_F(DeviceCallDeathTest, KernelsCannotTouchTheHostsMemory) {
  const GuardedMatrix x = numbered(1, 8);
  EXPECT_DEATH(
      {
        DeviceCall call;
        fill_zero(call.stream(), x.view());
        call.finish();
      },
      "is an address in host memory");
}

TEST_F(DeviceCallDeathTest, NothingIsBehindACopy) {
  const GuardedMatrix x = numbered(3, 5);
  EXPECT_DEATH(
      {
        DeviceCall call;
        TensorView view = call.out(x.view());
        ++view.cols;
        fill_zero(call.stream(), view.row_range(2, 3));
        call.finish();
      },
      "");
}

TEST_F(DeviceCallDeathTest, MemoryThatReachesBeyondWhatWasNamedIsRefused) {
  const GuardedMatrix x = numbered(4, 6);
  EXPECT_DEATH(
      {
        DeviceCall call;
        call.in(x.view().row_range(0, 2));
        call.in(x.view().row_range(1, 3));
      },
      "here");
}
#endif

}  // namespace
}  // namespace convoke::cuda
