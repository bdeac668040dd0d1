#include <algorithm>
#include <bit>
#include <cstring>
#include <string_view>

#include "actors/codec.h"
#include "messages_generated.h"

namespace convoke {
namespace {

using Builder = flatbuffers::FlatBufferBuilder;
template <typename T>
using Offset = flatbuffers::Offset<T>;

static_assert(std::endian::native == std::endian::little,
              "arrays are copied as they lie in memory");

/// A builder that keeps its memory between messages; one per thread, so that encoding is pure for
/// its callers.
Builder& fresh_builder() {
  thread_local Builder builder(4096);
  constexpr size_t kKeep = 4 << 20;
  if (builder.GetSize() > kKeep) {
    builder.Reset();  // one huge prompt must not be remembered for ever
  } else {
    builder.Clear();
  }
  // Without this a field equal to its default is left out, and -0.0 == 0.0 would lose its sign.
  builder.ForceDefaults(true);
  return builder;
}

std::string_view cut(std::string_view text) {
  if (text.size() <= WireLimits::kStringBytes) return text;
  size_t end = WireLimits::kStringBytes;
  while (end > 0 && (static_cast<unsigned char>(text[end]) & 0xC0) == 0x80) --end;
  return text.substr(0, end);
}

Offset<flatbuffers::String> string(Builder& b, std::string_view text) {
  const std::string_view kept = cut(text);
  return b.CreateString(kept.data() ? kept.data() : "", kept.size());
}

template <typename T>
Offset<flatbuffers::Vector<T>> numbers(Builder& b, const std::vector<T>& values) {
  T* to = nullptr;
  const auto offset = b.CreateUninitializedVector<T>(values.size(), &to);
  std::copy(values.begin(), values.end(), to);
  return offset;
}

/// The concatenation of one array per item.
template <typename Items, typename Get>
auto flat(Builder& b, const Items& items, Get get) {
  using T = typename std::remove_cvref_t<decltype(get(*items.begin()))>::value_type;
  size_t count = 0;
  for (const auto& item : items) count += get(item).size();
  T* to = nullptr;
  const auto offset = b.CreateUninitializedVector<T>(count, &to);
  for (const auto& item : items) to = std::copy(get(item).begin(), get(item).end(), to);
  return offset;
}

/// A vector of structs; `next()` yields them in order. (The library's "uninitialized" vectors of
/// structs align by the size of the struct, which is wrong unless that is a power of two.)
template <typename Wire, typename Next>
Offset<flatbuffers::Vector<const Wire*>> struct_vector(Builder& b, size_t count, Next next) {
  return b.CreateVectorOfStructs<Wire>(
      count, [](size_t, Wire* to, Next* from) { *to = (*from)(); }, &next);
}

template <typename Wire, typename Items, typename Make>
Offset<flatbuffers::Vector<const Wire*>> structs(Builder& b, const Items& items, Make make) {
  return struct_vector<Wire>(b, items.size(),
                             [&, item = items.begin()]() mutable { return make(*item++); });
}

/// The concatenation of one array of structs per item.
template <typename Wire, typename Items, typename Get, typename Make>
Offset<flatbuffers::Vector<const Wire*>> flat_structs(Builder& b, const Items& items, Get get,
                                                      Make make) {
  size_t count = 0;
  for (const auto& item : items) count += get(item).size();
  return struct_vector<Wire>(b, count, [&, item = items.begin(), i = size_t{0}]() mutable {
    while (i == get(*item).size()) {
      ++item;
      i = 0;
    }
    return make(get(*item)[i++]);
  });
}

template <typename Items>
Offset<flatbuffers::Vector<const wire::TreeNode*>> tree_nodes(Builder& b, const Items& items) {
  return flat_structs<wire::TreeNode>(
      b, items, [](const auto& item) -> const auto& { return item.tree.nodes; },
      [](const DraftNode& n) { return wire::TreeNode(n.parent, n.token, n.probe); });
}

Offset<wire::Sampling> sampling(Builder& b, const SamplingParams& p) {
  const auto bias = structs<wire::TokenBias>(
      b, p.logit_bias, [](const auto& pair) { return wire::TokenBias(pair.first, pair.second); });
  const auto stop = numbers(b, p.stop_tokens);
  return wire::CreateSampling(b, p.temperature, p.top_k, p.top_p, p.min_p, p.repetition_penalty,
                              p.presence_penalty, p.frequency_penalty, bias, p.seed, p.max_tokens,
                              p.min_tokens, p.ignore_eos, stop, p.logprobs, p.digests);
}

Offset<wire::RequestStats> stats(Builder& b, const RequestStats& s) {
  const auto accepted = numbers(b, s.accepted_by_depth);
  const auto drafted = numbers(b, s.drafted_by_depth);
  return wire::CreateRequestStats(
      b, s.prompt_tokens, s.output_tokens, s.decode_steps, s.drafts, s.draft_tokens,
      s.accepted_tokens, accepted, drafted, s.draft_outcomes, s.draft_outcomes_in_tree,
      s.draft_passes, s.draft_hidden_seconds, s.late_drafts, s.preemptions, s.queue_seconds,
      s.first_token_seconds, s.total_seconds, s.draft_seconds, s.target_seconds,
      s.communication_seconds, s.other_seconds);
}

// --- one overload per message -------------------------------------------------------------------

auto write(Builder& b, const SubmitRequest& m) {
  const auto prompt = numbers(b, m.prompt);
  return wire::CreateSubmitRequest(b, m.request, prompt, sampling(b, m.sampling));
}

auto write(Builder& b, const CancelRequest& m) {
  return wire::CreateCancelRequest(b, m.request);
}

auto write(Builder& b, const RequestOutput& m) {
  const auto logprobs = flat_structs<wire::TokenLogprob>(
      b, m.tokens, [](const OutputToken& t) -> const auto& { return t.logprobs; },
      [](const TokenLogprob& l) { return wire::TokenLogprob(l.token, l.logprob); });
  const auto tokens = structs<wire::OutputTokenHead>(b, m.tokens, [](const OutputToken& t) {
    return wire::OutputTokenHead(t.digest, t.token, uint32_t(t.logprobs.size()), t.drafted);
  });
  const auto error = string(b, m.error);
  return wire::CreateRequestOutput(b, m.request, tokens, logprobs, wire::FinishReason(m.finish),
                                   m.stop_token, error, stats(b, m.stats));
}

auto write(Builder& b, const SequenceOpened& m) {
  const auto tokens = numbers(b, m.sequence.tokens);
  return wire::CreateSequenceOpened(b, m.sequence.id, tokens, m.sequence.prompt_tokens,
                                    sampling(b, m.sequence.sampling));
}

auto write(Builder& b, const SequenceClosed& m) {
  return wire::CreateSequenceClosed(b, m.id);
}

auto write(Builder& b, const VerdictBatch& m) {
  using V = DraftVerdict;
  const auto heads = structs<wire::VerdictHead>(b, m.verdicts, [](const V& v) {
    return wire::VerdictHead(v.id, v.base_length, uint32_t(v.tokens.size()), v.verified,
                             uint32_t(v.probes.size()), v.feature_begin, uint32_t(v.features.rows));
  });
  const auto tokens = flat(
      b, m.verdicts, [](const V& v) -> const auto& { return v.tokens; });
  const auto probes = flat_structs<wire::ProbeHead>(
      b, m.verdicts, [](const V& v) -> const auto& { return v.probes; },
      [](const ProbeResult& p) {
        return wire::ProbeHead(p.node, p.pick, uint32_t(p.ranked.size()));
      });
  std::vector<wire::RankedToken> all_ranked;
  for (const V& v : m.verdicts) {
    for (const ProbeResult& p : v.probes) {
      for (const RankedToken& r : p.ranked) all_ranked.emplace_back(r.score, r.token);
    }
  }
  const auto ranked = b.CreateVectorOfStructs(all_ranked);
  const auto type = m.feature_dtype == kFeatureNames     ? wire::FeatureType::Name
                    : m.feature_dtype == DType::kFloat32 ? wire::FeatureType::Float32
                                                         : wire::FeatureType::BFloat16;
  return wire::CreateVerdictBatch(b, m.step, heads, tokens, probes, ranked, type,
                                  uint32_t(m.feature_width), numbers(b, m.wanted),
                                  m.limits.max_nodes, m.limits.max_depth, m.limits.top_k);
}

auto write(Builder& b, const DraftTrees& m) {
  const auto heads = structs<wire::TreeHead>(b, m.trees, [](const SequenceTree& t) {
    return wire::TreeHead(t.id, t.base_length, uint32_t(t.tree.nodes.size()),
                          uint32_t(t.tree.gains.size()));
  });
  const auto nodes = tree_nodes(b, m.trees);
  const auto gains = flat(
      b, m.trees, [](const SequenceTree& t) -> const auto& { return t.tree.gains; });
  return wire::CreateDraftTrees(b, m.step, heads, nodes, gains, m.draft_seconds, m.hidden_seconds,
                                m.counts.outcomes, m.counts.outcomes_in_tree, m.counts.passes);
}

auto write(Builder& b, const DrafterReady& m) {
  return wire::CreateDrafterReady(b, string(b, m.method), m.incarnation);
}

auto write(Builder& b, const StepPlan& m) {
  using S = SequenceRows;
  std::vector<Offset<wire::OpenSequence>> opened;  // rare: most steps open nothing
  for (const OpenSequence& o : m.opened) {
    opened.push_back(
        wire::CreateOpenSequence(b, o.place, o.id, o.prompt_tokens, sampling(b, o.sampling)));
  }
  const auto opened_at = b.CreateVector(opened);
  const auto heads = structs<wire::RowsHead>(b, m.sequences, [](const S& s) {
    return wire::RowsHead(s.place, s.context, uint32_t(s.commit.size()),
                          uint32_t(s.new_blocks.size()), uint32_t(s.chain.size()),
                          uint32_t(s.tree.nodes.size()), s.pick);
  });
  const auto commit = flat(
      b, m.sequences, [](const S& s) -> const auto& { return s.commit; });
  const auto blocks = flat(
      b, m.sequences, [](const S& s) -> const auto& { return s.new_blocks; });
  const auto chain = flat(
      b, m.sequences, [](const S& s) -> const auto& { return s.chain; });
  const auto nodes = tree_nodes(b, m.sequences);
  return wire::CreateStepPlan(b, m.step, m.last, numbers(b, m.closed), opened_at, heads, commit,
                              blocks, chain, nodes);
}

auto write(Builder& b, const Heartbeat& m) {
  const auto host = string(b, m.host);
  return wire::CreateHeartbeat(b, m.rank, host, string(b, m.role), m.count);
}

auto write(Builder& b, const Fault& m) {
  const auto host = string(b, m.host);
  const auto role = string(b, m.role);
  return wire::CreateFault(b, m.rank, host, role, m.orderly, string(b, m.reason));
}

auto write(Builder& b, const Shutdown& m) {
  return wire::CreateShutdown(b, string(b, m.reason));
}

template <typename Wire>
void finish(Builder& b, Offset<Wire> body, std::vector<std::byte>& out) {
  const auto envelope = wire::CreateEnvelope(b, wire::Version::Current,
                                             wire::BodyTraits<Wire>::enum_value, body.Union());
  wire::FinishEnvelopeBuffer(b, envelope);
  const auto* bytes = reinterpret_cast<const std::byte*>(b.GetBufferPointer());
  out.assign(bytes, bytes + b.GetSize());
}

}  // namespace

void encode(const Message& message, std::vector<std::byte>& out) {
  Builder& b = fresh_builder();
  std::visit([&](const auto& m) { finish(b, write(b, m), out); }, message);
}

std::vector<std::byte> encode(const Message& message) {
  std::vector<std::byte> out;
  encode(message, out);
  return out;
}

void encode_plan(const StepPlan& plan, std::vector<std::byte>& out) {
  Builder& b = fresh_builder();
  finish(b, write(b, plan), out);
}

}  // namespace convoke
