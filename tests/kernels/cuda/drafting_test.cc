// Decoding with drafters that compute beside the target on its device: the tokens and bits of plain
// decoding, whatever the drafter computes on.
#include <atomic>
#include <thread>

#include "launcher/draft_device.h"
#include "runtime/drafters/pass.h"
#include "tests/kernels/cuda/backend_fixture.h"
#include "tests/support/heads_fixture.h"

namespace convoke {
namespace {

using testing::Outcome;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

const std::filesystem::path kTarget = kGoldenModels / "llama-gqa-bf16";
const std::filesystem::path kHeads = checkout() / "tests/golden/heads";

/// Greedy, sampled, and with every processor.
std::vector<TestRequest> make_requests(int tokens) {
  std::vector<TestRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4, int32_t(20 + 7 * i), 5};
    requests[i].prompt.resize(5 + 6 * i, int32_t(11 + i));
    SamplingParams& s = requests[i].sampling;
    if (i == 2) testing::use_every_processor(s);
    s.seed = 40 + i;
    s.max_tokens = tokens;
    s.ignore_eos = true;
    s.temperature = i == 0 ? 0.0f : 0.8f;
  }
  return requests;
}

struct Case {
  const char* method;
  const char* head;  ///< folder of kHeads; "": the target itself drafts
};
void PrintTo(const Case& c, std::ostream* out) {
  *out << c.method << " " << c.head;
}

std::string argument_of(const Case& c) {
  return *c.head == 0 ? kTarget.string() : (kHeads / c.head).string();
}

DraftContext context_of(const TestReplica& replica) {
  DraftContext context;
  context.vocabulary = replica.config().vocabulary;
  context.model = kTarget;
  context.max_sequences = 4;
  context.threads = 1;
  return context;
}

class CudaDrafting : public ::testing::TestWithParam<Case> {};

TEST_P(CudaDrafting, NeverChangesABitOnTheDeviceOrOffIt) {
  const DrafterSpec spec =
      DrafterSpec::parse(std::string(GetParam().method) + ":" + argument_of(GetParam()));
  ReplicaShape shape{.max_sequences = 4, .max_rows = 96};
  shape.features = draft_needs(spec, ModelConfig::load(kTarget)).features;
  TestReplica replica(kTarget, on_gpus(shape, DType::kBFloat16));
  const auto requests = make_requests(10);
  const std::vector<Outcome> plain = replica.run(requests);
  const int64_t plain_steps = replica.steps();
  for (const bool on_device : {true, false}) {
    for (const bool ahead : {false, true}) {
      if (ahead && std::string(GetParam().method) == "medusa") continue;
      SCOPED_TRACE(::testing::Message()
                   << (on_device ? "device" : "CPU") << (ahead ? ", ahead" : ""));
      DrafterSpec asked = spec;
      asked.ahead = ahead;
      DraftContext context = context_of(replica);
      const Backend* theirs = nullptr;
      if (on_device) {
        context.float16 = true;
        context.make_backend = [&] {
          auto backend = replica.backend(0).sibling();
          theirs = backend.get();
          return backend;
        };
      }
      const auto drafter = make_drafter(asked, context);
      const DraftLimits limits{.max_nodes = 12, .max_depth = 4};
      EXPECT_EQ(replica.run(requests, *drafter, limits), plain);
      EXPECT_GT(drafter->take_counts().passes, 0);
      EXPECT_EQ(theirs != nullptr, on_device);
      if (on_device && !ahead) {
        EXPECT_GT(cuda::graph_counters(*theirs).replayed, 0u);
      }
      // The target drafting for itself is nearly always right.
      if (*GetParam().head == 0) {
        EXPECT_GT(replica.accepted(), 12);
        EXPECT_LT(replica.steps(), plain_steps);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Methods, CudaDrafting,
                         ::testing::Values(Case{"eagle", "eagle-fp32"},
                                           Case{"eagle3", "eagle3-reduced-bf16"},
                                           Case{"medusa", "medusa-two-layers-bf16"},
                                           Case{"draft-model", ""}),
                         [](const auto& test) {
                           std::string name = test.param.method;
                           std::ranges::replace(name, '-', '_');
                           return name;
                         });

TEST(CudaDraftingOf, LookaheadEmbeddingsNeedsNoDeviceOfItsOwn) {
  ReplicaShape shape{.max_sequences = 3, .probe_candidates = 8, .lookahead_tokens = {5, 6, 7, 8}};
  TestReplica replica(kTarget, on_gpus(shape, DType::kBFloat16));
  const auto requests = make_requests(10);
  const std::vector<Outcome> plain = replica.run(requests);
  PassDrafter drafter({}, 4);
  EXPECT_EQ(replica.run(requests, drafter, {.max_nodes = 16, .max_depth = 4}), plain);
}

// Two threads and two streams of one device, at once.
TEST(CudaSiblings, DraftAndTargetComputeSideBySide) {
  const testing::GoldenHead golden = testing::load_golden_head("eagle3-reduced-bf16");
  TestReplica replica(kTarget, on_gpus({.max_sequences = 3}, DType::kBFloat16));
  testing::OpenHead head(golden, {.dtype = "bfloat16"}, replica.backend(0).sibling());
  const auto requests = make_requests(8);
  const std::vector<Outcome> plain = replica.run(requests);
  const testing::Trace alone = testing::run_golden(*head.model, golden, {});
  std::atomic<bool> done{false};
  int drafted = 0, different = 0;
  std::thread drafting([&] {
    do {
      different += testing::run_golden(*head.model, golden, {}) == alone ? 0 : 1;
      ++drafted;
    } while (!done.load());
  });
  for (int i = 0; i < 3; ++i) EXPECT_EQ(replica.run(requests), plain) << i;
  done.store(true);
  drafting.join();
  EXPECT_EQ(different, 0) << "of " << drafted;
  EXPECT_GE(drafted, 1);
}

/// What an engine with these options answers to a few prompts; random weights.
std::vector<std::vector<int32_t>> answers(const std::string& drafter,
                                          const std::string& draft_device) {
  EngineOptions options;
  options.model = kTarget;
  options.load_format = "dummy";
  options.device = "cuda";
  options.draft_device = draft_device;
  options.kv_cache_tokens = 1024;
  options.max_num_seqs = 3;
  options.max_batched_tokens = 64;
  options.threads = 1;
  options.draft_deadline_ms = 60000;  // emulated drafts are slow
  options.drafter = DrafterSpec::parse(drafter);
  options.drafter.limits = {.max_nodes = 8, .max_depth = 4};
  options.drafter.auto_size = false;  // emulated rows cost more than they bring
  const auto engine = start_engine(options);
  std::vector<std::vector<int32_t>> texts(3);
  for (size_t i = 0; i < texts.size(); ++i) {
    SubmitRequest request{.request = i, .prompt = {int32_t(5 + i), 6, 7, 8}, .sampling = {}};
    request.sampling.temperature = i == 0 ? 0.0f : 1.0f;
    request.sampling.seed = i;
    request.sampling.max_tokens = 12;
    request.sampling.ignore_eos = true;
    engine->submit(request);
  }
  int drafts = 0;
  for (size_t finished = 0; finished < texts.size();) {
    const auto output = engine->receive(Clock::now() + std::chrono::seconds(60));
    if (!output) {
      ADD_FAILURE() << "no output came";
      return texts;
    }
    EXPECT_NE(output->finish, FinishReason::kError) << output->error;
    for (const OutputToken& token : output->tokens) texts[output->request].push_back(token.token);
    if (output->finish == FinishReason::kNone) continue;
    drafts += int(output->stats.drafts);
    ++finished;
  }
  EXPECT_EQ(drafts > 0, drafter != "none");
  return texts;
}

// The launcher's own way: flags, sibling, features through the mailbox.
TEST(CudaEngine, DraftsOnItsDeviceOrOnTheCpu) {
  try {
    choose_device("cuda");
  } catch (const Error& error) {
    GTEST_SKIP() << error.what();  // built without CUDA
  }
  const auto plain = answers("none", "auto");
  const std::string head = "eagle:" + (kHeads / "eagle-fp32").string();
  EXPECT_EQ(answers(head, "auto"), plain);
  EXPECT_EQ(answers(head, "cuda"), plain);
  EXPECT_EQ(answers(head, "cpu"), plain);
  EXPECT_EQ(answers("draft-model:" + kTarget.string(), "cuda"), plain);
  EXPECT_THROW(answers("ngram", "cuda"), Error);
}

#if !defined(CONVOKE_TEST_ON_GPU)
// What the cache leaves free on the GPU for a drafter is enough for it, and not much more.
TEST(CudaDraftMemory, IsWhatHeadsTake) {
#if defined(CONVOKE_WITHOUT_CUDA)
  GTEST_SKIP() << "the launcher was built without CUDA, and says so";
#endif
  ReplicaSetup setup;
  setup.options.model = kTarget;
  setup.options.max_num_seqs = 4;
  setup.config = ModelConfig::load(kTarget);
  setup.max_model_len = 128;
  setup.draft_device = ShardDevice::kCuda;
  // Work space, which does not grow with the model, comes out of what is spared anyway.
  constexpr int64_t kWorkSpace = int64_t{3} << 20;
  for (const Case& c : {Case{"eagle", "eagle-fp32"}, Case{"eagle3", "eagle3-reduced-bf16"},
                        Case{"medusa", "medusa-two-layers-bf16"}, Case{"draft-model", ""}}) {
    SCOPED_TRACE(c.method);
    const DrafterSpec spec = DrafterSpec::parse(std::string(c.method) + ":" + argument_of(c));
    DraftContext context = setup.draft_context();
    context.gpu.device = 1;
    compute_on_gpu(context);
    ASSERT_TRUE(context.make_backend);
    const auto taken = [&] {
      const int64_t before = int64_t(emulation::device_bytes());
      const auto drafter = make_drafter(spec, context);
      return int64_t(emulation::device_bytes()) - before;
    };
    const int64_t alone = taken(), told = draft_memory(spec, setup, false);
    EXPECT_LE(alone, told + kWorkSpace);
    EXPECT_GE(alone, told / 2);
    EXPECT_GT(told, 10000);
    // Beside its target it does without copies of what that has; packed, they are a bit larger.
    TestReplica target(kTarget, on_gpus({.max_sequences = 1}, DType::kBFloat16));
    context.make_backend = [&] { return target.backend(0).sibling(); };
    context.shared = target.shared_weights();
    const int64_t saved = told - draft_memory(spec, setup, true);
    EXPECT_EQ(saved > 0, std::string(c.method).starts_with("eagle"));
    EXPECT_GE(alone - taken(), saved);
    EXPECT_LE(alone - taken(), saved + saved / 4);
  }
  EXPECT_EQ(draft_memory(DrafterSpec::parse("ngram"), setup, true), 0);
}
#endif

}  // namespace
}  // namespace convoke
