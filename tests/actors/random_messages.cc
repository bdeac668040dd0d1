#include "tests/actors/random_messages.h"

#include <bit>
#include <limits>

#include "kernels/check.h"

namespace convoke {

int32_t RandomMessages::in(int32_t low, int32_t high) {
  return std::uniform_int_distribution<int32_t>(low, high)(random_);
}

float RandomMessages::number() {
  switch (in(0, 4)) {
    case 0:
      return 0.0f;
    case 1:
      return -0.0f;
    case 2:
      return std::numeric_limits<float>::denorm_min();
    case 3:
      return std::numeric_limits<float>::max();
    default:
      return std::uniform_real_distribution<float>(-2, 2)(random_);
  }
}

std::string RandomMessages::text() {
  std::string s(size_t(in(0, 40)), ' ');
  for (char& c : s) c = char(in(0, 255));
  return s;
}

std::vector<int32_t> RandomMessages::tokens(int most) {
  std::vector<int32_t> t(size_t(in(0, most)));
  for (int32_t& x : t) x = in(0, 200000);
  return t;
}

DraftTree RandomMessages::tree(int nodes) {
  DraftTree t;
  for (int i = 0; i < nodes; ++i) {
    const int32_t parent = in(-1, i - 1);
    const bool probe = (parent >= 0 && t.nodes[parent].probe) || in(0, 3) == 0;
    t.nodes.push_back({parent, probe ? in(-9, 100) : in(0, 100000), probe});
  }
  return t;
}

SamplingParams RandomMessages::sampling() {
  SamplingParams p;
  p.temperature = number();
  p.top_k = in(-1, 100);
  p.top_p = number();
  p.min_p = number();
  p.repetition_penalty = number();
  p.presence_penalty = number();
  p.frequency_penalty = number();
  int32_t token = -1;
  for (int i = in(0, 5); i > 0; --i) p.logit_bias.emplace_back(token += in(1, 99), number());
  if (coin()) {
    p.logit_bias.emplace_back(token + 1, -std::numeric_limits<float>::infinity());
  }
  p.seed = random_();
  p.max_tokens = in(0, 1000);
  p.min_tokens = in(0, 1000);
  p.ignore_eos = coin();
  p.stop_tokens = tokens(4);
  p.logprobs = in(-1, 20);
  p.digests = coin();
  return p;
}

RequestOutput RandomMessages::request_output() {
  RequestOutput m;
  m.request = random_();
  for (int i = in(0, 6); i > 0; --i) {
    OutputToken t{in(0, 1000), coin(), random_(), {}};
    for (int j = in(0, 3); j > 0; --j) t.logprobs.push_back({in(0, 1000), number()});
    m.tokens.push_back(std::move(t));
  }
  m.finish = FinishReason(in(0, 4));
  m.stop_token = in(-1, 100);
  m.error = text();
  RequestStats& s = m.stats;
  for (int64_t* field : {&s.prompt_tokens, &s.output_tokens, &s.decode_steps, &s.drafts,
                         &s.draft_tokens, &s.accepted_tokens, &s.late_drafts, &s.preemptions,
                         &s.draft_outcomes, &s.draft_outcomes_in_tree, &s.draft_passes}) {
    *field = int64_t(random_() >> 1);
  }
  for (int i = in(0, 8); i > 0; --i) s.accepted_by_depth.push_back(in(0, 1000));
  for (int i = in(0, 8); i > 0; --i) s.drafted_by_depth.push_back(in(0, 1000));
  for (double* field :
       {&s.queue_seconds, &s.first_token_seconds, &s.total_seconds, &s.draft_seconds,
        &s.target_seconds, &s.communication_seconds, &s.other_seconds, &s.draft_hidden_seconds}) {
    *field = double(number());
  }
  return m;
}

VerdictBatch RandomMessages::verdict_batch() {
  VerdictBatch m;
  m.step = random_();
  for (int i = in(0, 6); i > 0; --i) {
    DraftVerdict& v = m.verdicts.emplace_back();
    v.id = random_();
    v.base_length = in(0, 1000);
    v.tokens = tokens(9);
    v.verified = in(0, 64);
    for (int j = in(0, 4); j > 0; --j) {
      ProbeResult& probe = v.probes.emplace_back();
      probe.node = in(0, 64);
      probe.pick = in(-1, 1000);
      for (int k = in(0, 5); k > 0; --k) probe.ranked.push_back({number(), in(-1, 1000)});
    }
    v.feature_begin = in(0, 1000);
    v.features.rows = in(0, 9);
  }
  m.feature_dtype = coin() ? DType::kFloat32 : coin() ? DType::kBFloat16 : kFeatureNames;
  m.feature_width = m.feature_dtype == kFeatureNames ? 1 : in(0, 5000);
  for (int i = in(0, 6); i > 0; --i) m.wanted.push_back(random_());
  m.limits = {in(0, 64), in(0, 16), in(0, 10)};
  return m;
}

DraftTrees RandomMessages::draft_trees() {
  DraftTrees m;
  m.step = random_();
  for (int i = in(0, 6); i > 0; --i) {
    SequenceTree& t = m.trees.emplace_back(SequenceTree{random_(), in(0, 1000), tree(in(0, 20))});
    if (coin()) continue;
    for (int j = t.tree.size(); j > 0; --j) t.tree.gains.push_back(std::abs(number()));
  }
  m.draft_seconds = std::abs(double(number()));
  m.hidden_seconds = std::abs(double(number()));
  m.counts = {in(0, 100), in(0, 100), in(0, 100)};
  return m;
}

StepPlan RandomMessages::step_plan(int sequences, int chain, int nodes) {
  StepPlan m;
  m.step = random_();
  m.last = coin();
  for (int i = in(0, 3); i > 0; --i) m.closed.push_back(in(0, 100));
  for (int i = in(0, 2); i > 0; --i) {
    m.opened.push_back({in(0, 100), random_(), in(0, 100), sampling()});
  }
  for (int i = 0; i < sequences; ++i) {
    SequenceRows& rows = m.sequences.emplace_back();
    rows.place = i * 3 + in(0, 2);
    int32_t node = -1;
    for (int j = in(0, 4); j > 0; --j) rows.commit.push_back(node += in(1, 3));
    for (int j = in(0, 2); j > 0; --j) rows.new_blocks.push_back(in(0, 1000));
    rows.context = in(0, 4000);
    for (int j = 0; j < chain; ++j) rows.chain.push_back(in(0, 100000));
    rows.tree = tree(nodes);
    rows.pick = coin();
  }
  return m;
}

Message RandomMessages::make(size_t kind) {
  switch (kind) {
    case 0:
      return SubmitRequest{random_(), tokens(50), sampling()};
    case 1:
      return CancelRequest{random_()};
    case 2:
      return request_output();
    case 3: {
      auto t = tokens(50);
      const auto prompt = in(0, int32_t(t.size()));
      return SequenceOpened{{random_(), std::move(t), prompt, sampling()}};
    }
    case 4:
      return SequenceClosed{random_()};
    case 5:
      return verdict_batch();
    case 6:
      return draft_trees();
    case 7:
      return DrafterReady{text(), uint32_t(random_())};
    case 8:
      return step_plan(in(0, 5), in(1, 9), in(0, 20));
    case 9:
      return Heartbeat{in(-1, 100), text(), text(), random_()};
    case 10:
      return Fault{in(-1, 100), text(), text(), coin(), text()};
    case 11:
      return Shutdown{text()};
    default:
      CONVOKE_CHECK(false);
  }
}

// --- equality, field by field and to the bit ----------------------------------------------------

namespace {

bool eq(float a, float b) {
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}
bool eq(double a, double b) {
  return std::bit_cast<uint64_t>(a) == std::bit_cast<uint64_t>(b);
}

template <typename T, typename F>
bool eq_all(const std::vector<T>& a, const std::vector<T>& b, F equal) {
  return std::equal(a.begin(), a.end(), b.begin(), b.end(), equal);
}

bool eq(const SamplingParams& a, const SamplingParams& b) {
  const auto pairs = [](const auto& x, const auto& y) {
    return x.first == y.first && eq(x.second, y.second);
  };
  return eq(a.temperature, b.temperature) && a.top_k == b.top_k && eq(a.top_p, b.top_p) &&
         eq(a.min_p, b.min_p) && eq(a.repetition_penalty, b.repetition_penalty) &&
         eq(a.presence_penalty, b.presence_penalty) &&
         eq(a.frequency_penalty, b.frequency_penalty) &&
         eq_all(a.logit_bias, b.logit_bias, pairs) && a.seed == b.seed &&
         a.max_tokens == b.max_tokens && a.min_tokens == b.min_tokens &&
         a.ignore_eos == b.ignore_eos && a.stop_tokens == b.stop_tokens &&
         a.logprobs == b.logprobs && a.digests == b.digests;
}

bool eq(const SubmitRequest& a, const SubmitRequest& b) {
  return a.request == b.request && a.prompt == b.prompt && eq(a.sampling, b.sampling);
}
bool eq(const CancelRequest& a, const CancelRequest& b) {
  return a.request == b.request;
}

bool eq(const RequestStats& a, const RequestStats& b) {
  return a == b && eq(a.queue_seconds, b.queue_seconds) &&
         eq(a.first_token_seconds, b.first_token_seconds) && eq(a.total_seconds, b.total_seconds) &&
         eq(a.draft_seconds, b.draft_seconds) && eq(a.target_seconds, b.target_seconds) &&
         eq(a.communication_seconds, b.communication_seconds) &&
         eq(a.other_seconds, b.other_seconds);
}

bool eq(const RequestOutput& a, const RequestOutput& b) {
  return a.request == b.request && a.tokens == b.tokens && a.finish == b.finish &&
         a.stop_token == b.stop_token && a.error == b.error && eq(a.stats, b.stats);
}
bool eq(const SequenceOpened& a, const SequenceOpened& b) {
  const DraftSequence &x = a.sequence, &y = b.sequence;
  return x.id == y.id && x.tokens == y.tokens && x.prompt_tokens == y.prompt_tokens &&
         eq(x.sampling, y.sampling);
}
bool eq(const SequenceClosed& a, const SequenceClosed& b) {
  return a.id == b.id;
}

bool eq(const VerdictBatch& a, const VerdictBatch& b) {
  const auto ranked = [](const RankedToken& x, const RankedToken& y) {
    return eq(x.score, y.score) && x.token == y.token;
  };
  const auto probes = [&](const ProbeResult& x, const ProbeResult& y) {
    return x.node == y.node && x.pick == y.pick && eq_all(x.ranked, y.ranked, ranked);
  };
  const auto verdicts = [&](const DraftVerdict& x, const DraftVerdict& y) {
    return x.id == y.id && x.base_length == y.base_length && x.tokens == y.tokens &&
           x.verified == y.verified && eq_all(x.probes, y.probes, probes) &&
           x.feature_begin == y.feature_begin && x.features.rows == y.features.rows;
  };
  return a.step == b.step && eq_all(a.verdicts, b.verdicts, verdicts) && a.wanted == b.wanted &&
         a.feature_dtype == b.feature_dtype && a.feature_width == b.feature_width &&
         a.limits.max_nodes == b.limits.max_nodes && a.limits.max_depth == b.limits.max_depth &&
         a.limits.top_k == b.limits.top_k;
}

bool eq(const DraftTrees& a, const DraftTrees& b) {
  const auto trees = [](const SequenceTree& x, const SequenceTree& y) {
    return x.id == y.id && x.base_length == y.base_length && x.tree == y.tree;
  };
  return a.step == b.step && eq_all(a.trees, b.trees, trees) &&
         eq(a.draft_seconds, b.draft_seconds) && eq(a.hidden_seconds, b.hidden_seconds) &&
         a.counts.outcomes == b.counts.outcomes &&
         a.counts.outcomes_in_tree == b.counts.outcomes_in_tree &&
         a.counts.passes == b.counts.passes;
}

bool eq(const DrafterReady& a, const DrafterReady& b) {
  return a.method == b.method && a.incarnation == b.incarnation;
}

bool eq(const StepPlan& a, const StepPlan& b) {
  const auto opened = [](const OpenSequence& x, const OpenSequence& y) {
    return x.place == y.place && x.id == y.id && x.prompt_tokens == y.prompt_tokens &&
           eq(x.sampling, y.sampling);
  };
  const auto rows = [](const SequenceRows& x, const SequenceRows& y) {
    return x.place == y.place && x.commit == y.commit && x.new_blocks == y.new_blocks &&
           x.context == y.context && x.chain == y.chain && x.tree == y.tree && x.pick == y.pick;
  };
  return a.step == b.step && a.last == b.last && a.closed == b.closed &&
         eq_all(a.opened, b.opened, opened) && eq_all(a.sequences, b.sequences, rows);
}

bool eq(const Heartbeat& a, const Heartbeat& b) {
  return a.rank == b.rank && a.host == b.host && a.role == b.role && a.count == b.count;
}
bool eq(const Fault& a, const Fault& b) {
  return a.rank == b.rank && a.host == b.host && a.role == b.role && a.orderly == b.orderly &&
         a.reason == b.reason;
}
bool eq(const Shutdown& a, const Shutdown& b) {
  return a.reason == b.reason;
}

}  // namespace

bool same(const Message& a, const Message& b) {
  if (a.index() != b.index()) return false;
  return std::visit([&](const auto& x) { return eq(x, std::get<std::decay_t<decltype(x)>>(b)); },
                    a);
}

}  // namespace convoke
