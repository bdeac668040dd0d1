// Features from device to device: the drafts of those that go through the host, to the bit, and
// nothing of them on the host.
#include "runtime/feature_ring.h"

#include <list>

#include "tests/kernels/cuda/backend_fixture.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::GoldenHead;
using testing::load_golden_head;
using testing::OpenHead;
using testing::Outcome;
using testing::ReplicaShape;
using testing::run_golden;
using testing::RunOptions;
using testing::TestReplica;
using testing::TestRequest;
using testing::Trace;

const std::filesystem::path kTarget = kGoldenModels / "llama-gqa-bf16";
const std::filesystem::path kHeads = checkout() / "tests/golden/heads";

/// A drafter that keeps what it proposed.
class Recorder final : public Drafter {
 public:
  explicit Recorder(std::unique_ptr<Drafter> drafter) : drafter_(std::move(drafter)) {}
  std::string name() const override { return drafter_->name(); }
  void open(const DraftSequence& sequence) override { drafter_->open(sequence); }
  void advance(const DraftVerdict& verdict) override {
    named += are_names(verdict.features) ? verdict.features.rows : 0;
    rows += verdict.features.rows;
    drafter_->advance(verdict);
  }
  void close(SequenceId id) override { drafter_->close(id); }
  std::vector<DraftTree> propose(std::span<const SequenceId> ids,
                                 const DraftLimits& limits) override {
    proposed.push_back(drafter_->propose(ids, limits));
    return proposed.back();
  }
  std::vector<std::vector<DraftTree>> proposed;
  int64_t named = 0, rows = 0;

 private:
  std::unique_ptr<Drafter> drafter_;
};

std::vector<TestRequest> make_requests() {
  const size_t lengths[] = {12, 14, 23};
  std::vector<TestRequest> requests(std::size(lengths));
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4, int32_t(20 + 7 * i), 5};
    requests[i].prompt.resize(lengths[i], int32_t(11 + i));
    SamplingParams& s = requests[i].sampling;
    s.seed = 40 + i;
    s.max_tokens = 9;
    s.ignore_eos = true;
    s.temperature = i % 2 == 0 ? 0.0f : 0.8f;
  }
  return requests;
}

struct RingCase {
  const char* method;
  const char* head;
  DType storage;
  bool every_shape;
};
void PrintTo(const RingCase& c, std::ostream* out) {
  *out << c.head << " in " << dtype_name(c.storage);
}

class CudaFeatures : public ::testing::TestWithParam<RingCase> {
 protected:
  DrafterSpec spec() const {
    return DrafterSpec::parse(std::string(GetParam().method) + ":" +
                              (kHeads / GetParam().head).string());
  }
  std::unique_ptr<TestReplica> open_target(ReplicaShape shape) const {
    shape.features = draft_needs(spec(), ModelConfig::load(kTarget)).features;
    return std::make_unique<TestReplica>(kTarget, on_gpus(shape, GetParam().storage));
  }
  std::unique_ptr<Recorder> open_drafter(TestReplica& target, bool ring) const {
    DraftContext context;
    context.vocabulary = target.config().vocabulary;
    context.model = kTarget;
    context.max_sequences = 4;
    context.float16 = true;
    context.make_backend = [&] { return target.backend(0).sibling(); };
    if (ring) context.feature_ring = target.feature_ring();
    return std::make_unique<Recorder>(make_drafter(spec(), context));
  }
};

TEST_P(CudaFeatures, GiveTheSameDraftsFromDeviceToDevice) {
  const auto requests = make_requests();
  const DraftLimits limits{.max_nodes = 8, .max_depth = 3};
  const ReplicaShape shapes[] = {
      {.max_sequences = 4, .max_rows = 32, .prompt_chunk = 7},
      {.max_sequences = 4, .max_rows = 96, .kv_cache_tokens = 48},  // preemptions
      {.tp = 2, .max_sequences = 4, .max_rows = 96},
  };
  bool preempted = !GetParam().every_shape;
  for (const ReplicaShape& shape : std::span(shapes).first(GetParam().every_shape ? 3 : 1)) {
    SCOPED_TRACE(::testing::Message() << "tp " << shape.tp << ", chunk " << shape.prompt_chunk
                                      << ", cache " << shape.kv_cache_tokens);
    const auto target = open_target(shape);
    const auto plain = target->run(requests);
    const auto host = open_drafter(*target, false);
    EXPECT_EQ(target->run(requests, *host, limits), plain);
    EXPECT_EQ(host->named, 0);
    const auto device = open_drafter(*target, true);
    EXPECT_EQ(target->run(requests, *device, limits), plain);
    preempted |= target->preemptions() > 0;
    EXPECT_GT(device->rows, 40);
    EXPECT_EQ(device->named, device->rows) << "all of them";
    ASSERT_EQ(device->proposed.size(), host->proposed.size());
    for (size_t i = 0; i < host->proposed.size(); ++i) {
      ASSERT_EQ(device->proposed[i], host->proposed[i]) << "step " << i;
    }
    if (shape.prompt_chunk == 0 || !GetParam().every_shape) continue;
    // Trees that come late, and parts of trees.
    const auto partly = [turn = 0](const DraftTree& tree) mutable {
      return ++turn % 3 == 0 ? -1 : turn % 3 == 1 ? tree.size() / 2 : tree.size();
    };
    EXPECT_EQ(target->run(requests, *open_drafter(*target, true), limits, partly), plain);
  }
  EXPECT_TRUE(preempted);
}

INSTANTIATE_TEST_SUITE_P(
    Heads, CudaFeatures,
    ::testing::Values(RingCase{"eagle", "eagle-fp32", DType::kBFloat16, true},
                      RingCase{"eagle", "eagle-fp32", DType::kFloat16, false},
                      RingCase{"eagle", "eagle-embedding-bf16", DType::kFloat32, false},
                      RingCase{"eagle3", "eagle3-reduced-bf16", DType::kBFloat16, false}),
    [](const auto& test) {
      std::string name =
          std::string(test.param.head) + "_" + std::string(dtype_name(test.param.storage));
      std::ranges::replace(name, '-', '_');
      return name;
    });

/// A ring that a test writes by hand.
struct WrittenRing {
  WrittenRing(Backend& its_backend, int64_t width, int pass_rows = 64)
      : backend(its_backend), ring(std::make_shared<FeatureRing>(3, pass_rows)) {
    ring->prepare(backend, DType::kFloat32, width);
  }
  /// Names of rows that are these; the host's rows themselves where the ring has no room.
  TensorView write(const TensorView& features) {
    std::vector<int64_t>& names = kept.emplace_back();
    if (!ring->take(int(features.rows), names)) return features;
    for (int64_t r = 0; r < features.rows; ++r) {
      const int32_t row = ring->row_of(names[size_t(r)]);
      backend.run([&](Stream& stream) {
        backend.copy(stream, features.row_range(r, r + 1), ring->rows().row_range(row, row + 1));
      });
    }
    return TensorView::matrix(names.data(), kFeatureNames, features.rows, 1);
  }
  void skip(int rows) {
    std::vector<int64_t> names;
    ASSERT_TRUE(ring->take(rows, names));
  }
  Backend& backend;
  std::shared_ptr<FeatureRing> ring;
  std::list<std::vector<int64_t>> kept;
};

class CudaNames : public ::testing::TestWithParam<std::string> {
 protected:
  /// A head that reads the ring, on a sibling of its writer.
  struct Head {
    explicit Head(const GoldenHead& golden)
        : writer(cuda::make_cuda_backend({})),
          ring(*writer, int64_t(golden.features[0].size())),
          head(golden, {.dtype = "bfloat16"}, writer->sibling()) {
      dynamic_cast<PagedBranchModel&>(*head.model).read_features_from(ring.ring);
    }
    std::unique_ptr<Backend> writer;
    WrittenRing ring;
    OpenHead head;
  };
  const GoldenHead golden = load_golden_head(GetParam());
};

TEST_P(CudaNames, AreAsGoodAsRowsAlsoByTurns) {
  OpenHead reference(golden, {.dtype = "bfloat16"}, cuda::make_cuda_backend({}));
  const Trace expected = run_golden(*reference.model, golden, {});
  Head head(golden);
  for (const int chunk : {1000, 5, 1}) {
    for (const int every : {1, 2, 3}) {
      RunOptions options;
      options.chunk = chunk;
      options.instead = [&, calls = 0](const TensorView& rows) mutable {
        return calls++ % every == 0 ? head.ring.write(rows) : rows;
      };
      EXPECT_EQ(run_golden(*head.head.model, golden, options), expected)
          << "chunks of " << chunk << ", every " << every << ". named";
    }
  }
}

// Overwritten rows are rows that never came.
TEST_P(CudaNames, ThatCameTooLateAreUnknown) {
  OpenHead reference(golden, {.dtype = "bfloat16"}, cuda::make_cuda_backend({}));
  RunOptions lacking;
  // A row of zeros is what an unknown one is taken as.
  std::vector<std::vector<float>> zeros;
  lacking.instead = [&, calls = 0](const TensorView& rows) mutable {
    if (calls++ != 1) return rows;
    auto& memory = zeros.emplace_back(size_t(rows.rows * rows.cols), 0.0f);
    return TensorView::matrix(memory.data(), DType::kFloat32, rows.rows, rows.cols);
  };
  lacking.chunk = 6;
  const Trace expected = run_golden(*reference.model, golden, lacking);
  Head head(golden);
  RunOptions late;
  late.chunk = 6;
  late.instead = [&, calls = 0](const TensorView& rows) mutable {
    const TensorView names = head.ring.write(rows);
    if (calls++ == 1) {
      head.ring.skip(int(kNamesThatStay));
      head.ring.skip(128);
    }
    return names;
  };
  EXPECT_EQ(run_golden(*head.head.model, golden, late), expected);
  RunOptions all;
  all.chunk = 6;
  EXPECT_NE(run_golden(*reference.model, golden, all), expected) << "features matter";
}

INSTANTIATE_TEST_SUITE_P(Heads, CudaNames, ::testing::Values("eagle-fp32", "eagle3-reduced-bf16"),
                         [](const auto& test) {
                           std::string name = test.param;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

#if !defined(CONVOKE_TEST_ON_GPU)
TEST(CudaFeatureTransfers, ThereAreNone) {
  const GoldenHead golden = load_golden_head("eagle3-reduced-bf16");
  const DrafterSpec spec = DrafterSpec::parse("eagle3:" + golden.directory.string());
  ReplicaShape shape{.max_sequences = 2, .max_rows = 64};
  shape.features = draft_needs(spec, ModelConfig::load(golden.target)).features;
  TestReplica target(golden.target, on_gpus(shape, DType::kBFloat16));
  std::vector<TestRequest> requests(2);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4};
    requests[i].sampling = {};
    requests[i].sampling.max_tokens = 14;
    requests[i].sampling.ignore_eos = true;
  }
  struct Counts {
    uint64_t steps, passes, to_device, to_host, waits;
  };
  const auto count = [&](bool ring) {
    DraftContext context;
    context.vocabulary = target.config().vocabulary;
    context.model = golden.target;
    context.max_sequences = 2;
    context.make_backend = [&] { return target.backend(0).sibling(); };
    if (ring) context.feature_ring = target.feature_ring();
    const auto drafter = make_drafter(spec, context);
    const DraftLimits limits{.max_nodes = 6, .max_depth = 3};
    target.run(requests, *drafter, limits);  // graphs, work space
    drafter->take_counts();
    const emulation::DeviceCounters before = emulation::device_counters();
    target.run(requests, *drafter, limits);
    const emulation::DeviceCounters& after = emulation::device_counters();
    EXPECT_EQ(after.allocations, before.allocations);
    return Counts{uint64_t(target.steps()), uint64_t(drafter->take_counts().passes),
                  after.to_device - before.to_device, after.to_host - before.to_host,
                  after.waits - before.waits};
  };
  const Counts host = count(false), device = count(true);
  ASSERT_EQ(device.steps, host.steps);
  // What waits when a text ends is taken in, and would not be if it could wait.
  EXPECT_LE(device.passes, host.passes + 2);
  // A pass's arrays, and its picks or ranking, and nothing else; maybe a program that only holds.
  EXPECT_LE(device.to_host, device.steps + device.passes);
  EXPECT_LE(device.to_device, device.steps + device.passes);
  EXPECT_GE(host.to_host, 2 * host.steps + host.passes - 2) << "all features";
  EXPECT_GE(host.to_device, host.steps + host.passes + host.steps / 2) << "and back";
}
#endif

}  // namespace
}  // namespace convoke
