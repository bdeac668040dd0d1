// Heads beside their target on one device: the target's embedding and lm_head serve both.
#include <atomic>
#include <optional>
#include <thread>

#include "launcher/draft_device.h"
#include "tests/kernels/cuda/backend_fixture.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::GoldenHead;
using testing::load_golden_head;
using testing::OpenHead;
using testing::ReplicaShape;
using testing::run_golden;
using testing::TestReplica;
using testing::Trace;

/// A target of golden heads on a device, in 16 bits.
std::unique_ptr<TestReplica> open_target_of(const GoldenHead& golden,
                                            DType storage = DType::kBFloat16,
                                            const cuda::CudaOptions& options = {}) {
  return std::make_unique<TestReplica>(golden.target,
                                       on_gpus({.max_sequences = 2}, storage, options));
}

OpenHead open_beside(TestReplica& target, const GoldenHead& golden, const SharedWeights& shared,
                     const std::string& dtype = "bfloat16") {
  return {golden, {.dtype = dtype}, target.backend(0).sibling(), shared};
}

/// A request or two, for bits of the target that must not change.
std::vector<testing::Outcome> decode(TestReplica& target) {
  testing::TestRequest request{.prompt = {5, 9, 4, 21}, .sampling = {}};
  request.sampling.max_tokens = 6;
  request.sampling.ignore_eos = true;
  return target.run({request, request});
}

struct SharingCase {
  const char* head;
  bool embedding, lm_head;  ///< taken from the target
};
void PrintTo(const SharingCase& c, std::ostream* out) {
  *out << c.head;
}

class CudaSharing : public ::testing::TestWithParam<SharingCase> {};

/// Once launched, once captured.
void expect_same_drafts(const GoldenHead& golden, const cuda::CudaOptions& options) {
  const auto target = open_target_of(golden, DType::kBFloat16, options);
  OpenHead own = open_beside(*target, golden, {});
  OpenHead sharing = open_beside(*target, golden, target->shared_weights());
  const Trace expected = run_golden(*own.model, golden, {});
  for (int i = 0; i < 2; ++i) EXPECT_EQ(run_golden(*sharing.model, golden, {}), expected);
}

TEST_P(CudaSharing, GivesTheSameDrafts) {
  expect_same_drafts(load_golden_head(GetParam().head), {});
}

#if !defined(CONVOKE_TEST_ON_GPU)
TEST_P(CudaSharing, TakesNoMemoryForWhatTheTargetHas) {
  const GoldenHead golden = load_golden_head(GetParam().head);
  const uint64_t at_first = emulation::device_bytes();
  {
    const auto target = open_target_of(golden);
    const uint64_t before = emulation::device_bytes();
    const auto taken = [&](const SharedWeights& shared, const std::string& dtype = "bfloat16") {
      const OpenHead head = open_beside(*target, golden, shared, dtype);
      return emulation::device_bytes() - before;
    };
    const SharedWeights shared = target->shared_weights();
    const TensorView embedding = shared.embedding.view();
    const uint64_t of_embedding =
        uint64_t(embedding.rows * embedding.cols) * dtype_size(embedding.dtype);
    EXPECT_EQ(embedding.rows, target->config().vocabulary);
    EXPECT_EQ(shared.lm_head->outputs(), target->config().vocabulary);
    uint64_t saved = GetParam().embedding ? of_embedding : 0;
    EXPECT_EQ(taken({}), taken({.embedding = shared.embedding}) + saved);
    // Stored in another type, lm_head is not the same.
    EXPECT_EQ(taken({}, "float32"), taken(shared, "float32") + saved);
    if (GetParam().lm_head) saved += shared.lm_head->bytes();
    EXPECT_EQ(taken({}), taken(shared) + saved);
    EXPECT_EQ(emulation::device_bytes(), before);
  }
  EXPECT_EQ(emulation::device_bytes(), at_first);
}
#endif

INSTANTIATE_TEST_SUITE_P(Heads, CudaSharing,
                         ::testing::Values(SharingCase{"eagle-fp32", true, true},
                                           SharingCase{"eagle-qkv-bias-fp16", true, true},
                                           SharingCase{"eagle-embedding-bf16", false, true},
                                           SharingCase{"eagle-reduced-fp32", true, false},
                                           SharingCase{"eagle3-fp32", true, false},
                                           SharingCase{"eagle3-reduced-bf16", true, false},
                                           SharingCase{"eagle3-wide-fp32", false, false}),
                         [](const auto& test) {
                           std::string name = test.param.head;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(CudaSharingOf, LibraryLayoutsGivesTheSameDrafts) {
  expect_same_drafts(load_golden_head("eagle-fp32"), {.matmul = cuda::CudaMatmul::kFast});
}

TEST(CudaSharingOf, AHeadOutlivesTheTargetAndTheOtherWayRound) {
  for (const char* name : {"eagle-fp32", "eagle3-reduced-bf16"}) {
    SCOPED_TRACE(name);
    const GoldenHead golden = load_golden_head(name);
    auto target = open_target_of(golden);
    const auto plain = decode(*target);
    std::optional<OpenHead> first = open_beside(*target, golden, target->shared_weights());
    const Trace expected = run_golden(*first->model, golden, {});
    first.reset();
    EXPECT_EQ(decode(*target), plain);
    std::optional<OpenHead> second = open_beside(*target, golden, target->shared_weights());
    target.reset();
    EXPECT_EQ(run_golden(*second->model, golden, {}), expected);
    // The last one goes on another thread than that on which its weights were loaded.
    std::thread([&] { second.reset(); }).join();
  }
}

// Both read the same lm_head at once, in streams of two threads.
TEST(CudaSharingOf, HeadAndTargetComputeSideBySide) {
  const GoldenHead golden = load_golden_head("eagle-fp32");
  const auto target = open_target_of(golden);
  OpenHead head = open_beside(*target, golden, target->shared_weights());
  const auto plain = decode(*target);
  const Trace alone = run_golden(*head.model, golden, {});
  std::atomic<bool> done{false};
  int different = 0;
  std::thread drafting([&] {
    do {
      different += run_golden(*head.model, golden, {}) == alone ? 0 : 1;
    } while (!done.load());
  });
  for (int i = 0; i < 3; ++i) EXPECT_EQ(decode(*target), plain) << i;
  done.store(true);
  drafting.join();
  EXPECT_EQ(different, 0);
}

TEST(CudaSharingOf, SlicesIsNothing) {
  TestReplica replica(kGoldenModels / "llama-gqa-bf16", on_gpus({.tp = 2}, DType::kBFloat16));
  const SharedWeights shared = replica.shared_weights();
  EXPECT_EQ(shared.embedding.view().rows, 0);
  EXPECT_EQ(shared.lm_head, nullptr);
}

// Its scales are the checkpoint's, which a head that packs lm_head for itself would not have.
TEST(CudaSharingOf, AnLmHeadOf8BitsIsNotDone) {
  TestReplica replica(checkout() / "tests/golden/float8_models/compressed-head",
                      on_gpus({}, DType::kBFloat16));
  const SharedWeights shared = replica.shared_weights();
  EXPECT_EQ(shared.embedding.view().rows, replica.config().vocabulary);
  EXPECT_EQ(shared.lm_head == nullptr, replica.config().is_quantized("lm_head"));
  EXPECT_TRUE(replica.config().is_quantized("lm_head"));
}

}  // namespace
}  // namespace convoke
