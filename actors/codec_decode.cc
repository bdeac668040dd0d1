#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <span>

#include "actors/codec.h"
#include "kernels/check.h"
#include "messages_generated.h"

namespace convoke {
namespace {

constexpr int32_t kAnyToken = std::numeric_limits<int32_t>::max();

/// Thrown inside this file only: the first thing wrong with a message.
struct Malformed {
  std::string why;
};

template <typename... Args>
void require(bool good, fmt::format_string<Args...> format, Args&&... args) {
  if (!good) [[unlikely]] {
    throw Malformed{fmt::format(format, std::forward<Args>(args)...)};
  }
}

// --- pieces -------------------------------------------------------------------------------------

std::string text(const flatbuffers::String* s) {
  if (!s) return "";
  require(s->size() <= WireLimits::kStringBytes, "a string of {} bytes", s->size());
  return s->str();
}

template <typename T>
std::span<const T> numbers(const flatbuffers::Vector<T>* v) {
  return v ? std::span<const T>(v->data(), v->size()) : std::span<const T>();
}

template <typename Wire>
std::span<const Wire> structs(const flatbuffers::Vector<const Wire*>* v) {
  // Structs lie inline, one behind the other.
  return v ? std::span<const Wire>(reinterpret_cast<const Wire*>(v->Data()), v->size())
           : std::span<const Wire>();
}

void require_tokens(std::span<const int32_t> tokens, int32_t least, const char* what) {
  for (int32_t t : tokens) require(t >= least, "{} has token {}", what, t);
}

void require_finite(double value, const char* what) {
  require(std::isfinite(value), "{} is {}", what, value);
}

/// Hands out a flat array piece by piece; at the end all of it must be used.
template <typename T>
class Pieces {
 public:
  Pieces(std::span<const T> all, const char* what) : left_(all), what_(what) {}
  std::span<const T> take(size_t count) {
    require(count <= left_.size(), "{} has {} elements left where {} are asked for", what_,
            left_.size(), count);
    const auto piece = left_.first(count);
    left_ = left_.subspan(count);
    return piece;
  }
  void end() const { require(left_.empty(), "{} has {} surplus elements", what_, left_.size()); }

 private:
  std::span<const T> left_;
  const char* what_;
};

template <typename T>
void assign(std::vector<T>& to, std::span<const T> from) {
  to.assign(from.begin(), from.end());
}

void read_tree(std::span<const wire::TreeNode> nodes, std::span<const float> gains,
               DraftTree& tree) {
  require(nodes.size() <= size_t(WireLimits::kTreeNodes), "a tree of {} nodes", nodes.size());
  tree.nodes.clear();
  for (const wire::TreeNode& n : nodes) tree.nodes.push_back({n.parent(), n.token(), n.probe()});
  assign(tree.gains, gains);
  for (float gain : gains) require(std::isfinite(gain) && gain >= 0, "a node gains {}", gain);
  // The vocabulary is not known here; the rest of what makes a tree is.
  const std::string defect = find_defect(tree, kAnyToken, kAnyToken);
  require(defect.empty(), "{}", defect);
}

SamplingParams read_sampling(const wire::Sampling& s) {
  SamplingParams p;
  p.temperature = s.temperature();
  p.top_k = s.top_k();
  p.top_p = s.top_p();
  p.min_p = s.min_p();
  p.repetition_penalty = s.repetition_penalty();
  p.presence_penalty = s.presence_penalty();
  p.frequency_penalty = s.frequency_penalty();
  p.seed = s.seed();
  p.max_tokens = s.max_tokens();
  p.min_tokens = s.min_tokens();
  p.ignore_eos = s.ignore_eos();
  p.logprobs = s.logprobs();
  p.digests = s.digests();
  require_finite(p.temperature, "temperature");
  require_finite(p.top_p, "top_p");
  require_finite(p.min_p, "min_p");
  require_finite(p.repetition_penalty, "repetition_penalty");
  require_finite(p.presence_penalty, "presence_penalty");
  require_finite(p.frequency_penalty, "frequency_penalty");
  int64_t previous = -1;
  for (const wire::TokenBias& b : structs(s.logit_bias())) {
    require(b.token() > previous, "logit_bias is not sorted at token {}", b.token());
    require(!std::isnan(b.bias()), "logit_bias of token {} is not a number", b.token());
    previous = b.token();
    p.logit_bias.emplace_back(b.token(), b.bias());
  }
  assign(p.stop_tokens, numbers(s.stop_tokens()));
  return p;
}

RequestStats read_stats(const wire::RequestStats& s) {
  RequestStats r;
  r.prompt_tokens = s.prompt_tokens();
  r.output_tokens = s.output_tokens();
  r.decode_steps = s.decode_steps();
  r.drafts = s.drafts();
  r.draft_tokens = s.draft_tokens();
  r.accepted_tokens = s.accepted_tokens();
  assign(r.accepted_by_depth, numbers(s.accepted_by_depth()));
  assign(r.drafted_by_depth, numbers(s.drafted_by_depth()));
  r.draft_outcomes = s.draft_outcomes();
  r.draft_outcomes_in_tree = s.draft_outcomes_in_tree();
  r.draft_passes = s.draft_passes();
  r.draft_hidden_seconds = s.draft_hidden_seconds();
  r.late_drafts = s.late_drafts();
  r.preemptions = s.preemptions();
  r.queue_seconds = s.queue_seconds();
  r.first_token_seconds = s.first_token_seconds();
  r.total_seconds = s.total_seconds();
  r.draft_seconds = s.draft_seconds();
  r.target_seconds = s.target_seconds();
  r.communication_seconds = s.communication_seconds();
  r.other_seconds = s.other_seconds();
  for (double seconds :
       {r.queue_seconds, r.first_token_seconds, r.total_seconds, r.draft_seconds, r.target_seconds,
        r.communication_seconds, r.other_seconds, r.draft_hidden_seconds}) {
    require_finite(seconds, "a time in the statistics");
  }
  return r;
}

// --- one function per message -------------------------------------------------------------------

SubmitRequest read(const wire::SubmitRequest& w) {
  // Token ids and ranges are the coordinator's to judge: it answers the front end with an error,
  // where dropping the message would leave the request without an end.
  SubmitRequest m;
  m.request = w.request();
  assign(m.prompt, numbers(w.prompt()));
  m.sampling = read_sampling(*w.sampling());
  return m;
}

CancelRequest read(const wire::CancelRequest& w) {
  return {w.request()};
}

RequestOutput read(const wire::RequestOutput& w) {
  RequestOutput m;
  m.request = w.request();
  require(w.finish() <= wire::FinishReason::MAX, "finish reason {}", unsigned(w.finish()));
  m.finish = FinishReason(w.finish());
  m.stop_token = w.stop_token();
  m.error = text(w.error());
  m.stats = read_stats(*w.stats());
  Pieces logprobs(structs(w.logprobs()), "logprobs");
  const auto heads = structs(w.tokens());
  m.tokens.reserve(heads.size());
  for (const wire::OutputTokenHead& head : heads) {
    OutputToken& token = m.tokens.emplace_back();
    token.token = head.token();
    token.drafted = head.drafted();
    token.digest = head.digest();
    for (const wire::TokenLogprob& l : logprobs.take(head.logprobs())) {
      token.logprobs.push_back({l.token(), l.logprob()});
    }
  }
  logprobs.end();
  return m;
}

SequenceOpened read(const wire::SequenceOpened& w) {
  SequenceOpened m;
  m.sequence.id = w.id();
  assign(m.sequence.tokens, numbers(w.tokens()));
  require_tokens(m.sequence.tokens, 0, "a sequence");
  m.sequence.prompt_tokens = w.prompt_tokens();
  require(w.prompt_tokens() >= 0 && size_t(w.prompt_tokens()) <= m.sequence.tokens.size(),
          "{} prompt tokens of {}", w.prompt_tokens(), m.sequence.tokens.size());
  m.sequence.sampling = read_sampling(*w.sampling());
  return m;
}

SequenceClosed read(const wire::SequenceClosed& w) {
  return {w.id()};
}

ProbeResult read_probe(const wire::ProbeHead& head, std::span<const wire::RankedToken> ranked) {
  require(head.node() >= 0 && head.node() < WireLimits::kTreeNodes, "a probe at node {}",
          head.node());
  require(head.pick() >= -1, "a probe's pick is {}", head.pick());
  ProbeResult probe{head.node(), head.pick(), {}};
  probe.ranked.reserve(ranked.size());
  for (const wire::RankedToken& r : ranked) {
    require(r.token() >= -1, "a probe ranks token {}", r.token());
    probe.ranked.push_back({r.score(), r.token()});
  }
  return probe;
}

// The rows lie in the attachment, which the receiver checks against their number.
void read_feature_rows(const wire::VerdictHead& head, const VerdictBatch& batch,
                       DraftVerdict& verdict) {
  require(head.feature_begin() >= 0 && head.feature_begin() <= WireLimits::kContext &&
              head.feature_rows() <= uint32_t(WireLimits::kContext),
          "features of {} rows from position {}", head.feature_rows(), head.feature_begin());
  verdict.feature_begin = head.feature_begin();
  verdict.features =
      TensorView::matrix(nullptr, batch.feature_dtype, head.feature_rows(), batch.feature_width);
}

VerdictBatch read(const wire::VerdictBatch& w) {
  VerdictBatch m;
  m.step = w.step();
  const auto heads = structs(w.verdicts());
  require(heads.size() <= WireLimits::kSequences, "{} verdicts", heads.size());
  Pieces tokens(numbers(w.tokens()), "tokens");
  Pieces probes(structs(w.probes()), "probes");
  Pieces ranked(structs(w.ranked()), "ranked");
  require(w.feature_type() <= wire::FeatureType::MAX, "feature type {}",
          unsigned(w.feature_type()));
  const bool names = w.feature_type() == wire::FeatureType::Name;
  m.feature_dtype = names                                            ? kFeatureNames
                    : w.feature_type() == wire::FeatureType::Float32 ? DType::kFloat32
                                                                     : DType::kBFloat16;
  m.feature_width = w.feature_width();
  require(!names || m.feature_width == 1, "names of features, {} for each", m.feature_width);
  require(m.feature_width <= WireLimits::kFeatureWidth, "features of {} elements", m.feature_width);
  m.verdicts.reserve(heads.size());
  for (const wire::VerdictHead& head : heads) {
    DraftVerdict& verdict = m.verdicts.emplace_back();
    verdict.id = head.id();
    verdict.base_length = head.base_length();
    require(head.base_length() >= 0 && head.base_length() <= WireLimits::kContext, "base length {}",
            head.base_length());
    assign(verdict.tokens, tokens.take(head.tokens()));
    verdict.verified = head.verified();
    require(head.verified() >= 0 && head.verified() <= WireLimits::kTreeNodes, "{} nodes verified",
            head.verified());
    for (const wire::ProbeHead& p : probes.take(head.probes())) {
      verdict.probes.push_back(read_probe(p, ranked.take(p.ranked())));
    }
    read_feature_rows(head, m, verdict);
    require_tokens(verdict.tokens, 0, "a verdict");
  }
  tokens.end();
  probes.end();
  ranked.end();
  assign(m.wanted, numbers(w.wanted()));
  require(m.wanted.size() <= WireLimits::kSequences, "{} trees wanted", m.wanted.size());
  m.limits = {w.max_nodes(), w.max_depth(), w.top_k()};
  for (int32_t limit : {w.max_nodes(), w.max_depth(), w.top_k()}) {
    require(limit >= 0 && limit <= WireLimits::kTreeNodes, "a tree limit of {}", limit);
  }
  return m;
}

DraftTrees read(const wire::DraftTrees& w) {
  DraftTrees m;
  m.step = w.step();
  const auto heads = structs(w.trees());
  require(heads.size() <= WireLimits::kSequences, "{} trees", heads.size());
  Pieces nodes(structs(w.nodes()), "nodes");
  Pieces gains(numbers(w.gains()), "gains");
  m.trees.reserve(heads.size());
  for (const wire::TreeHead& head : heads) {
    require(head.base_length() >= 0 && head.base_length() <= WireLimits::kContext, "base length {}",
            head.base_length());
    SequenceTree& tree = m.trees.emplace_back();
    tree.id = head.id();
    tree.base_length = head.base_length();
    read_tree(nodes.take(head.nodes()), gains.take(head.gains()), tree.tree);
  }
  nodes.end();
  gains.end();
  m.draft_seconds = w.draft_seconds();
  m.hidden_seconds = w.hidden_seconds();
  for (double time : {m.draft_seconds, m.hidden_seconds}) {
    require(std::isfinite(time) && time >= 0, "draft seconds are {}", time);
  }
  m.counts = {w.outcomes(), w.outcomes_in_tree(), w.passes()};
  return m;
}

DrafterReady read(const wire::DrafterReady& w) {
  return {text(w.method()), w.incarnation()};
}

void require_place(int32_t place) {
  require(place >= 0 && place < WireLimits::kPlaces, "place {}", place);
}

void require_distinct_places(std::span<const wire::RowsHead> heads) {
  thread_local std::vector<int32_t> places;
  places.clear();
  for (const wire::RowsHead& head : heads) places.push_back(head.place());
  std::ranges::sort(places);
  const auto twice = std::ranges::adjacent_find(places);
  require(twice == places.end(), "place {} has rows twice", twice == places.end() ? 0 : *twice);
}

void read_rows(const wire::RowsHead& head, Pieces<int32_t>& commit, Pieces<int32_t>& blocks,
               Pieces<int32_t>& chain, Pieces<wire::TreeNode>& nodes, SequenceRows& rows) {
  rows.place = head.place();
  rows.context = head.context();
  rows.pick = head.pick();
  require_place(head.place());
  require(head.context() >= 0 && head.context() <= WireLimits::kContext, "context {}",
          head.context());
  assign(rows.commit, commit.take(head.commit()));
  assign(rows.new_blocks, blocks.take(head.new_blocks()));
  assign(rows.chain, chain.take(head.chain()));
  require(!rows.chain.empty(), "place {} has no chain", head.place());
  require_tokens(rows.chain, 0, "a chain");
  int32_t previous = -1;
  for (int32_t node : rows.commit) {
    require(node > previous && node < WireLimits::kTreeNodes, "commit of node {} after node {}",
            node, previous);
    previous = node;
  }
  for (int32_t block : rows.new_blocks) require(block >= 0, "block {}", block);
  read_tree(nodes.take(head.nodes()), {}, rows.tree);
}

void read(const wire::StepPlan& w, StepPlan& m) {
  m.step = w.step();
  m.last = w.last();
  assign(m.closed, numbers(w.closed()));
  for (int32_t place : m.closed) require_place(place);
  m.opened.clear();
  if (w.opened()) {
    for (const wire::OpenSequence* o : *w.opened()) {
      require_place(o->place());
      require(o->prompt_tokens() >= 0, "{} prompt tokens", o->prompt_tokens());
      m.opened.push_back({o->place(), o->id(), o->prompt_tokens(), read_sampling(*o->sampling())});
    }
  }
  const auto heads = structs(w.sequences());
  require(heads.size() <= WireLimits::kSequences, "rows of {} sequences", heads.size());
  require_distinct_places(heads);
  Pieces commit(numbers(w.commit()), "commit");
  Pieces blocks(numbers(w.new_blocks()), "new_blocks");
  Pieces chain(numbers(w.chain()), "chain");
  Pieces nodes(structs(w.nodes()), "nodes");
  m.sequences.resize(heads.size());
  for (size_t i = 0; i < heads.size(); ++i) {
    read_rows(heads[i], commit, blocks, chain, nodes, m.sequences[i]);
  }
  commit.end();
  blocks.end();
  chain.end();
  nodes.end();
}

Heartbeat read(const wire::Heartbeat& w) {
  return {w.rank(), text(w.host()), text(w.role()), w.count()};
}

Fault read(const wire::Fault& w) {
  return {w.rank(), text(w.host()), text(w.role()), w.orderly(), text(w.reason())};
}

Shutdown read(const wire::Shutdown& w) {
  return {text(w.reason())};
}

// --- the envelope -------------------------------------------------------------------------------

/// The same bytes, aligned as FlatBuffers wants them: a frame of a socket may begin anywhere.
std::span<const uint8_t> aligned(std::span<const std::byte> bytes) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  if (reinterpret_cast<uintptr_t>(data) % alignof(uint64_t) == 0) return {data, bytes.size()};
  thread_local std::vector<uint64_t> copy;
  copy.resize((bytes.size() + sizeof(uint64_t) - 1) / sizeof(uint64_t));
  std::memcpy(copy.data(), data, bytes.size());
  return {reinterpret_cast<const uint8_t*>(copy.data()), bytes.size()};
}

/// Before anything else, so that a peer of another version is told so, and not of odd offsets.
void require_version(std::span<const uint8_t> bytes) {
  flatbuffers::Verifier verifier(bytes.data(), bytes.size());
  const auto root = verifier.VerifyOffset(0);
  require(root != 0, "truncated: no root table");
  const auto* table = reinterpret_cast<const flatbuffers::Table*>(bytes.data() + root);
  require(table->VerifyTableStart(verifier) &&
              table->VerifyField<uint16_t>(verifier, wire::Envelope::VT_VERSION, sizeof(uint16_t)),
          "truncated: no envelope");
  const auto version = table->GetField<uint16_t>(wire::Envelope::VT_VERSION, 0);
  require(version == uint16_t(wire::Version::Current),
          "protocol version {}, where this program speaks {}", version,
          uint16_t(wire::Version::Current));
}

const wire::Envelope& open_envelope(std::span<const uint8_t> bytes) {
  require(bytes.size() <= WireLimits::kMessageBytes, "{} bytes, more than a message may have",
          bytes.size());
  constexpr size_t kHeader = sizeof(flatbuffers::uoffset_t) + flatbuffers::kFileIdentifierLength;
  require(bytes.size() > kHeader, "truncated: {} bytes", bytes.size());
  require(wire::EnvelopeBufferHasIdentifier(bytes.data()), "not a Convoke message");
  require_version(bytes);
  constexpr flatbuffers::uoffset_t kMaxDepth = 8;
  // Every table takes more than 8 bytes, so this is no limit to an honest message.
  const auto max_tables = flatbuffers::uoffset_t(bytes.size() / 8 + 1);
  flatbuffers::Verifier verifier(bytes.data(), bytes.size(), kMaxDepth, max_tables);
  require(wire::VerifyEnvelopeBuffer(verifier), "an offset leads outside the buffer");
  return *wire::GetEnvelope(bytes.data());
}

Message read_body(const wire::Envelope& e) {
  switch (e.body_type()) {
    case wire::Body::SubmitRequest:
      return read(*e.body_as_SubmitRequest());
    case wire::Body::CancelRequest:
      return read(*e.body_as_CancelRequest());
    case wire::Body::RequestOutput:
      return read(*e.body_as_RequestOutput());
    case wire::Body::SequenceOpened:
      return read(*e.body_as_SequenceOpened());
    case wire::Body::SequenceClosed:
      return read(*e.body_as_SequenceClosed());
    case wire::Body::VerdictBatch:
      return read(*e.body_as_VerdictBatch());
    case wire::Body::DraftTrees:
      return read(*e.body_as_DraftTrees());
    case wire::Body::DrafterReady:
      return read(*e.body_as_DrafterReady());
    case wire::Body::StepPlan: {
      StepPlan plan;
      read(*e.body_as_StepPlan(), plan);
      return plan;
    }
    case wire::Body::Heartbeat:
      return read(*e.body_as_Heartbeat());
    case wire::Body::Fault:
      return read(*e.body_as_Fault());
    case wire::Body::Shutdown:
      return read(*e.body_as_Shutdown());
    case wire::Body::NONE:
      break;
  }
  throw Malformed{fmt::format("unknown message type {}", unsigned(e.body_type()))};
}

}  // namespace

std::optional<Message> decode(std::span<const std::byte> bytes, std::string* why) {
  try {
    return read_body(open_envelope(aligned(bytes)));
  } catch (const Malformed& malformed) {
    if (why) *why = malformed.why;
    return std::nullopt;
  }
}

bool decode_plan(std::span<const std::byte> bytes, StepPlan& plan, std::string* why) {
  try {
    const wire::Envelope& envelope = open_envelope(aligned(bytes));
    const wire::StepPlan* wire_plan = envelope.body_as_StepPlan();
    require(wire_plan != nullptr, "not a step plan");
    read(*wire_plan, plan);
    return true;
  } catch (const Malformed& malformed) {
    if (why) *why = malformed.why;
    return false;
  }
}

}  // namespace convoke
