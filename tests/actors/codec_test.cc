#include "actors/codec.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <limits>
#include <set>

#include "kernels/check.h"
#include "messages_generated.h"
#include "tests/actors/random_messages.h"

namespace convoke {
namespace {

constexpr size_t kKinds = std::variant_size_v<Message>;

std::string why_not(std::span<const std::byte> bytes) {
  std::string why;
  EXPECT_FALSE(decode(bytes, &why).has_value());
  EXPECT_FALSE(why.empty());
  return why;
}
std::string why_not(const Message& message) {
  return why_not(encode(message));
}

#define EXPECT_MALFORMED(message, text) EXPECT_THAT_CONTAINS(why_not(message), text)
#define EXPECT_THAT_CONTAINS(value, text)                         \
  do {                                                            \
    const std::string v_ = (value);                               \
    EXPECT_NE(v_.find(text), std::string::npos) << "got: " << v_; \
  } while (false)

TEST(Codec, EveryMessageComesBackToTheBit) {
  RandomMessages random(1);
  for (size_t kind = 0; kind < kKinds; ++kind) {
    for (int round = 0; round < 200; ++round) {
      const Message message = random.make(kind);
      std::string why;
      const auto back = decode(encode(message), &why);
      ASSERT_TRUE(back.has_value()) << "kind " << kind << ": " << why;
      ASSERT_TRUE(same(message, *back)) << "kind " << kind;
    }
  }
}

TEST(Codec, DefaultMessagesComeBack) {
  const Message all[] = {SubmitRequest{},  CancelRequest{}, RequestOutput{}, SequenceOpened{},
                         SequenceClosed{}, VerdictBatch{},  DraftTrees{},    DrafterReady{},
                         StepPlan{},       Heartbeat{},     Fault{},         Shutdown{}};
  for (const Message& message : all) {
    const auto back = decode(encode(message));
    ASSERT_TRUE(back.has_value()) << message.index();
    EXPECT_TRUE(same(message, *back)) << message.index();
  }
}

TEST(Codec, AnyAlignmentIsAccepted) {
  RandomMessages random(2);
  for (size_t shift = 0; shift < 8; ++shift) {
    const Message message = random.make(8);
    const auto bytes = encode(message);
    std::vector<std::byte> moved(bytes.size() + shift);
    std::copy(bytes.begin(), bytes.end(), moved.begin() + ptrdiff_t(shift));
    const auto back = decode(std::span(moved).subspan(shift));
    ASSERT_TRUE(back.has_value());
    EXPECT_TRUE(same(message, *back));
  }
}

TEST(Codec, PlansAreDecodedInPlaceWhateverWasThereBefore) {
  RandomMessages random(3);
  StepPlan plan;
  std::vector<std::byte> bytes;
  for (int round = 0; round < 100; ++round) {
    const auto message = std::get<StepPlan>(random.make(8));
    encode_plan(message, bytes);
    ASSERT_TRUE(decode_plan(bytes, plan));
    ASSERT_TRUE(same(Message(message), Message(plan)));
    ASSERT_TRUE(same(Message(message), *decode(bytes)));
  }
  std::string why;
  EXPECT_FALSE(decode_plan(encode(Heartbeat{}), plan, &why));
  EXPECT_EQ(why, "not a step plan");
}

TEST(Codec, NotANumberKeepsItsBitsWhereItIsAllowed) {
  RequestOutput m;
  const float odd = std::bit_cast<float>(0x7fc12345u);
  m.tokens.push_back({5, false, 1, {{5, odd}, {6, -std::numeric_limits<float>::infinity()}}});
  const auto back = decode(encode(m));
  ASSERT_TRUE(back.has_value());
  EXPECT_TRUE(same(Message(m), *back));
}

TEST(Codec, LongStringsAreCutBetweenCharacters) {
  std::string reason(WireLimits::kStringBytes - 1, 'x');
  reason += "\xC3\xA9 and more";
  const auto back = decode(encode(Shutdown{reason}));
  ASSERT_TRUE(back.has_value());
  EXPECT_EQ(std::get<Shutdown>(*back).reason, std::string(WireLimits::kStringBytes - 1, 'x'));
}

/// The fuzz target starts from one message of every kind; a change of the schema must renew them:
/// CONVOKE_WRITE_CORPUS=1 actors_codec_test --gtest_filter='*FuzzCorpus*'
TEST(Codec, FuzzCorpusHoldsEveryKindOfMessage) {
  const std::filesystem::path folder = CONVOKE_SOURCE_DIR "/tests/fuzz/corpus/messages";
  if (std::getenv("CONVOKE_WRITE_CORPUS")) {
    std::filesystem::create_directories(folder);
    RandomMessages random(11);
    for (size_t kind = 0; kind < kKinds; ++kind) {
      const auto bytes = encode(random.make(kind));
      std::ofstream out(folder / fmt::format("message-{:02}", kind), std::ios::binary);
      out.write(reinterpret_cast<const char*>(bytes.data()), std::streamsize(bytes.size()));
    }
  }
  std::set<size_t> kinds;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    std::ifstream in(entry.path(), std::ios::binary);
    const std::string text{std::istreambuf_iterator<char>(in), {}};
    std::string why;
    const auto message = decode(std::as_bytes(std::span(text)), &why);
    ASSERT_TRUE(message) << entry.path() << ": " << why;
    kinds.insert(message->index());
  }
  EXPECT_EQ(kinds.size(), kKinds);
}

// --- malformed input, kind by kind --------------------------------------------------------------

TEST(CodecMalformed, EveryTruncationIsRefused) {
  RandomMessages random(4);
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const auto bytes = encode(random.make(kind));
    for (size_t size = 0; size < bytes.size(); ++size) {
      // A copy of exactly this size, so that a sanitizer sees any read beyond it.
      const std::vector<std::byte> cut(bytes.begin(), bytes.begin() + ptrdiff_t(size));
      (void)decode(cut);  // padding at the end may be cut without harm
      if (size < bytes.size() / 2) {
        EXPECT_FALSE(decode(cut).has_value()) << kind << " " << size;
      }
    }
  }
  EXPECT_MALFORMED(std::span<const std::byte>(), "truncated");
}

TEST(CodecMalformed, FlippedBytesNeverEscapeTheBuffer) {
  RandomMessages random(5);
  std::mt19937 choose(6);
  for (size_t kind = 0; kind < kKinds; ++kind) {
    const auto bytes = encode(random.make(kind));
    for (size_t i = 0; i < bytes.size(); ++i) {
      auto bad = bytes;
      bad[i] = std::byte(choose());
      if (const auto message = decode(bad)) {
        EXPECT_LT(message->index(), kKinds);
      }
    }
  }
}

TEST(CodecMalformed, RandomBytesAreRefused) {
  std::mt19937 random(7);
  for (int round = 0; round < 2000; ++round) {
    std::vector<std::byte> bytes(random() % 200);
    for (std::byte& b : bytes) b = std::byte(random());
    if (bytes.size() > 8 && round % 2) std::memcpy(&bytes[4], "CVKM", 4);
    EXPECT_FALSE(decode(bytes).has_value());
  }
}

TEST(CodecMalformed, WrongIdentifier) {
  auto bytes = encode(Heartbeat{});
  bytes[4] = std::byte('X');
  EXPECT_MALFORMED(bytes, "not a Convoke message");
}

std::vector<std::byte> envelope(uint16_t version, uint8_t type) {
  flatbuffers::FlatBufferBuilder b;
  const auto body = wire::CreateCancelRequest(b, 7);
  wire::FinishEnvelopeBuffer(
      b, wire::CreateEnvelope(b, wire::Version(version), wire::Body(type), body.Union()));
  const auto* data = reinterpret_cast<const std::byte*>(b.GetBufferPointer());
  return {data, data + b.GetSize()};
}

TEST(CodecMalformed, WrongVersionIsNamed) {
  const auto cancel = uint8_t(wire::Body::CancelRequest);
  EXPECT_TRUE(decode(envelope(uint16_t(wire::Version::Current), cancel)).has_value());
  EXPECT_MALFORMED(envelope(0, cancel), "protocol version 0");
  EXPECT_MALFORMED(envelope(999, cancel), "protocol version 999");
}

TEST(CodecMalformed, UnknownMessageType) {
  const auto version = uint16_t(wire::Version::Current);
  EXPECT_MALFORMED(envelope(version, uint8_t(wire::Body::MAX) + 1), "unknown message type 13");
  EXPECT_MALFORMED(envelope(version, 255), "unknown message type 255");
  EXPECT_MALFORMED(envelope(version, 0), "unknown message type 0");
}

TEST(CodecMalformed, MissingRequiredPart) {
  flatbuffers::FlatBufferBuilder b;  // by hand: the generated code would not write this
  const auto start = b.StartTable();
  b.AddElement<uint16_t>(wire::Envelope::VT_VERSION, uint16_t(wire::Version::Current), 0);
  b.Finish(flatbuffers::Offset<wire::Envelope>(b.EndTable(start)), wire::EnvelopeIdentifier());
  const auto* data = reinterpret_cast<const std::byte*>(b.GetBufferPointer());
  EXPECT_FALSE(decode({data, b.GetSize()}).has_value());
}

TEST(CodecMalformed, EnumOutOfRange) {
  RequestOutput m;
  m.finish = FinishReason(9);
  EXPECT_MALFORMED(m, "finish reason 9");
}

TEST(CodecMalformed, NumbersThatAreNone) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float inf = std::numeric_limits<float>::infinity();
  for (float SamplingParams::*field :
       {&SamplingParams::temperature, &SamplingParams::top_p, &SamplingParams::min_p,
        &SamplingParams::repetition_penalty, &SamplingParams::presence_penalty,
        &SamplingParams::frequency_penalty}) {
    for (float bad : {nan, inf}) {
      SubmitRequest m;
      m.sampling.*field = bad;
      EXPECT_FALSE(decode(encode(m)).has_value());
    }
  }
  SubmitRequest m;
  m.sampling.logit_bias = {{3, nan}};
  EXPECT_MALFORMED(m, "logit_bias");
  EXPECT_MALFORMED((DraftTrees{1, {}, double(nan)}), "draft seconds");
  EXPECT_MALFORMED((DraftTrees{1, {}, -1.0}), "draft seconds");
  RequestOutput output;
  output.stats.total_seconds = double(nan);
  EXPECT_MALFORMED(output, "statistics");
}

TEST(CodecMalformed, UnsortedBias) {
  SubmitRequest m;
  m.sampling.logit_bias = {{4, 1.0f}, {3, 1.0f}};
  EXPECT_MALFORMED(m, "not sorted");
  m.sampling.logit_bias = {{4, 1.0f}, {4, 1.0f}};
  EXPECT_MALFORMED(m, "not sorted");
  m.sampling.logit_bias = {{-1, 1.0f}};
  EXPECT_MALFORMED(m, "not sorted");
}

TEST(CodecMalformed, BadTrees) {
  const auto trees = [](DraftTree tree, int32_t base = 0) {
    return DraftTrees{1, {{1, base, std::move(tree)}}, 0};
  };
  EXPECT_MALFORMED(trees({{{0, 1, false}}}), "parent");
  EXPECT_MALFORMED(trees({{{-2, 1, false}}}), "parent");
  EXPECT_MALFORMED(trees({{{-1, -1, false}}}), "look-ahead");
  EXPECT_MALFORMED(trees({{{-1, 1, true}, {0, 1, false}}}), "probe");
  EXPECT_MALFORMED(trees({}, -1), "base length");
  EXPECT_MALFORMED(trees({{{-1, 1, false}}, {0.5f, 0.25f}}), "gains");
  EXPECT_MALFORMED(trees({{{-1, 1, false}}, {-0.5f}}), "gains");
  DraftTree wide;
  wide.nodes.resize(size_t(WireLimits::kTreeNodes) + 1);
  EXPECT_MALFORMED(trees(wide), "a tree of");
}

TEST(CodecMalformed, BadVerdicts) {
  VerdictBatch m;
  const auto refuses = [&](const DraftVerdict& verdict, const char* why) {
    m.verdicts = {verdict};
    EXPECT_MALFORMED(m, why);
  };
  refuses({.id = 1, .base_length = -1}, "base length");
  refuses({.id = 1, .tokens = {-1}}, "token -1");
  refuses({.id = 1, .verified = -1}, "verified");
  refuses({.id = 1, .verified = WireLimits::kTreeNodes + 1}, "verified");
  refuses({.id = 1, .probes = {{-1, 0, {}}}}, "probe at node");
  refuses({.id = 1, .probes = {{0, -2, {}}}}, "probe's pick");
  refuses({.id = 1, .probes = {{0, 0, {{0.5f, -2}}}}}, "ranks token");
  refuses({.id = 1, .feature_begin = -1}, "features of");
  m.feature_width = WireLimits::kFeatureWidth + 1;
  refuses({.id = 1}, "features of");
  m.feature_dtype = kFeatureNames;
  m.feature_width = 2;
  refuses({.id = 1}, "names of features");
  m.feature_dtype = DType::kBFloat16;
  m.feature_width = 0;
  m.verdicts.clear();
  m.limits.max_nodes = WireLimits::kTreeNodes + 1;
  EXPECT_MALFORMED(m, "limit");
  m.limits = {1, -1};
  EXPECT_MALFORMED(m, "limit");
}

TEST(CodecMalformed, BadSequences) {
  EXPECT_MALFORMED((SequenceOpened{{1, {1, 2}, 3, {}}}), "prompt tokens");
  EXPECT_MALFORMED((SequenceOpened{{1, {1, 2}, -1, {}}}), "prompt tokens");
  EXPECT_MALFORMED((SequenceOpened{{1, {1, -2}, 1, {}}}), "token -2");
}

TEST(CodecMalformed, BadPlans) {
  SequenceRows good;
  good.chain = {1};
  const auto plan = [&](auto change) {
    StepPlan p;
    p.sequences = {good, good};
    p.sequences[1].place = 1;
    change(p);
    return p;
  };
  EXPECT_TRUE(decode(encode(plan([](StepPlan&) {}))).has_value());
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[1].place = 0; }), "twice");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].place = -1; }), "place");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].chain.clear(); }), "no chain");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].chain = {-1}; }), "token");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].commit = {1, 1}; }), "commit");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].commit = {-1}; }), "commit");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].new_blocks = {-1}; }), "block");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].context = -1; }), "context");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.closed = {-1}; }), "place");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.opened = {{-1, 0, 0, {}}}; }), "place");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.opened = {{1, 0, -1, {}}}; }), "prompt tokens");
  EXPECT_MALFORMED(plan([](StepPlan& p) { p.sequences[0].tree = {{{5, 1, false}}}; }), "parent");
}

/// Counts in the heads that disagree with the flat arrays.
template <typename Build>
std::vector<std::byte> hand_made(Build build) {
  flatbuffers::FlatBufferBuilder b;
  const auto [type, body] = build(b);
  wire::FinishEnvelopeBuffer(b, wire::CreateEnvelope(b, wire::Version::Current, type, body));
  const auto* data = reinterpret_cast<const std::byte*>(b.GetBufferPointer());
  return {data, data + b.GetSize()};
}

std::vector<std::byte> trees_with(std::vector<uint32_t> counts, int nodes) {
  return hand_made([&](auto& b) {
    std::vector<wire::TreeHead> heads;
    for (uint32_t count : counts) heads.emplace_back(1, 0, count, 0);
    const std::vector<wire::TreeNode> all(size_t(nodes), wire::TreeNode(-1, 1, false));
    const auto heads_at = b.CreateVectorOfStructs(heads);
    const auto nodes_at = b.CreateVectorOfStructs(all);
    const auto body = wire::CreateDraftTrees(b, 1, heads_at, nodes_at);
    return std::pair(wire::Body::DraftTrees, body.Union());
  });
}

TEST(CodecMalformed, CountsThatDisagreeWithTheArrays) {
  EXPECT_TRUE(decode(trees_with({2, 1}, 3)).has_value());
  EXPECT_MALFORMED(trees_with({2, 2}, 3), "asked for");
  EXPECT_MALFORMED(trees_with({0xffffffffu, 1}, 3), "asked for");
  EXPECT_MALFORMED(trees_with({1, 1}, 3), "surplus");
  EXPECT_MALFORMED(trees_with({}, 1), "surplus");
}

TEST(CodecMalformed, MissingVectorsAreEmpty) {
  const auto bytes = hand_made([](auto& b) {
    return std::pair(wire::Body::VerdictBatch, wire::CreateVerdictBatch(b, 5).Union());
  });
  const auto message = decode(bytes);
  ASSERT_TRUE(message.has_value());
  EXPECT_EQ(std::get<VerdictBatch>(*message).step, 5u);
  EXPECT_TRUE(std::get<VerdictBatch>(*message).verdicts.empty());
}

TEST(CodecMalformed, TooLarge) {
  std::vector<std::byte> bytes(WireLimits::kMessageBytes + 1);
  EXPECT_MALFORMED(bytes, "more than a message may have");
  VerdictBatch m;
  m.wanted.resize(WireLimits::kSequences + 1);
  EXPECT_MALFORMED(m, "wanted");
  const auto text = hand_made([](auto& b) {
    const auto reason = b.CreateString(std::string(WireLimits::kStringBytes + 1, 'x'));
    return std::pair(wire::Body::Shutdown, wire::CreateShutdown(b, reason).Union());
  });
  EXPECT_MALFORMED(text, "a string of");
}

}  // namespace
}  // namespace convoke
