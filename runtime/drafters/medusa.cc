#include "runtime/drafters/medusa.h"

#include <algorithm>
#include <queue>

#include "kernels/check.h"
#include "kernels/copy_row.h"
#include "runtime/heads/branch_factory.h"

namespace convoke {
namespace {

constexpr int kTopK = 10;  // candidates per head, as published

/// A candidate that has not been taken yet; the best goes first, of equal ones the older.
struct Open {
  float gain = 0;
  int64_t order = 0;
  int32_t parent = -1;
  int depth = 0;
  size_t rank = 0;
  bool operator<(const Open& other) const {
    return gain < other.gain || (gain == other.gain && order > other.order);
  }
};

}  // namespace

MedusaDrafter::MedusaDrafter(std::unique_ptr<Backend> backend, std::unique_ptr<MedusaHeads> heads)
    : backend_(std::move(backend)), heads_(std::move(heads)) {}

void MedusaDrafter::open(const DraftSequence& sequence) {
  Sequence& s = sequences_[sequence.id] = Sequence{};
  s.tokens = int32_t(sequence.tokens.size());
  s.sampling = sequence.sampling;
  s.counts.reset(sequence.sampling, sequence.prompt_tokens);
  s.counts.append(sequence.tokens);
  s.guesses.resize(size_t(heads_->heads()));
}

void MedusaDrafter::advance(const DraftVerdict& verdict) {
  const auto found = sequences_.find(verdict.id);
  if (found == sequences_.end()) return;
  Sequence& s = found->second;
  if (s.guessed_at == verdict.base_length) learn(s, verdict.tokens);
  s.counts.append(verdict.tokens);
  s.tokens += int32_t(verdict.tokens.size());
  if (verdict.features.rows == 0) return;
  const TensorView last =
      verdict.features.row_range(verdict.features.rows - 1, verdict.features.rows);
  s.feature.resize(size_t(last.cols));
  copy_row(last.data, last.dtype, s.feature.data(), DType::kFloat32, last.cols);
  s.feature_position = verdict.feature_begin + int32_t(verdict.features.rows) - 1;
}

void MedusaDrafter::learn(const Sequence& s, std::span<const int32_t> tokens) {
  const size_t known = std::min(tokens.size(), s.guesses.size());
  for (size_t k = 0; k < known; ++k) {
    // The tokens before the k-th were all guessed, or the verdict would have ended there; whether
    // this head knew the next does not depend on which of them were in the tree.
    const Guess& guess = s.guesses[k];
    for (size_t r = 0; r < guess.tokens.size(); ++r) {
      calibration_.learn({guess.raw[r], int(r), int(k), guess.tokens[r] == tokens[k]},
                         s.sampling.temperature > 0);
    }
  }
}

std::vector<DraftTree> MedusaDrafter::propose(std::span<const SequenceId> ids,
                                              const DraftLimits& limits) {
  std::vector<DraftTree> trees(ids.size());
  if (limits.max_nodes <= 0 || limits.max_depth <= 0) return trees;
  const int count = std::clamp(limits.top_k > 0 ? limits.top_k : kTopK, 1, kMaxRanked);
  std::vector<Sequence*> wanted, batch;
  std::vector<size_t> at;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto found = sequences_.find(ids[i]);
    // The last token has been picked from the feature of the position before it.
    if (found == sequences_.end() || found->second.feature_position < 0 ||
        found->second.feature_position != found->second.tokens - 2) {
      continue;
    }
    wanted.push_back(&found->second);
    at.push_back(i);
  }
  for (size_t begin = 0; begin < wanted.size(); begin += size_t(heads_->max_rows())) {
    const size_t rows = std::min(wanted.size() - begin, size_t(heads_->max_rows()));
    rank(std::span(wanted).subspan(begin, rows), count);
  }
  for (size_t i = 0; i < wanted.size(); ++i) trees[at[i]] = best_tree(*wanted[i], limits);
  return trees;
}

void MedusaDrafter::rank(std::span<Sequence* const> batch, int count) {
  std::vector<MedusaHeads::Row> rows;
  for (Sequence* s : batch) {
    MedusaHeads::Row& row = rows.emplace_back();
    row.feature = {s->feature.data(), DType::kFloat32};
    row.params.temperature = s->sampling.temperature;
    row.params.seed = s->sampling.seed;
    row.params.position = s->tokens;
    row.params.edits = s->counts.edits({}, s->edits);
  }
  heads_->rank(rows, count);
  ++counts_.passes;
  for (size_t i = 0; i < batch.size(); ++i) {
    Sequence& s = *batch[i];
    s.guessed_at = s.tokens;
    const bool sampled = s.sampling.temperature > 0;
    for (int k = 0; k < heads_->heads(); ++k) {
      const std::span<const RankedToken> ranked = heads_->ranked(int(i), k);
      Guess& guess = s.guesses[size_t(k)];
      guess.tokens.clear();
      for (const RankedToken& token : ranked) guess.tokens.push_back(token.token);
      raw_probabilities(ranked, s.sampling.temperature, guess.raw);
      guess.estimate.resize(guess.raw.size());
      calibration_.estimate(guess.raw, k, sampled, guess.estimate);
    }
  }
}

// Candidates in descending order of the product of the estimates on their path: since estimates do
// not ascend with the rank, a candidate's successors are its next sibling and its own first child.
DraftTree MedusaDrafter::best_tree(const Sequence& s, const DraftLimits& limits) const {
  DraftTree tree;
  std::priority_queue<Open> open;
  int64_t order = 0;
  std::vector<float> gain_above{1.0f};  // of the root, then of every node
  const int depths = std::min(limits.max_depth, heads_->heads());
  const auto offer = [&](int32_t parent, int depth, size_t rank) {
    if (depth >= depths || rank >= s.guesses[size_t(depth)].tokens.size()) return;
    const float gain = gain_above[size_t(parent + 1)] * s.guesses[size_t(depth)].estimate[rank];
    if (gain > 0) open.push({gain, order++, parent, depth, rank});
  };
  offer(-1, 0, 0);
  while (!open.empty() && tree.size() < limits.max_nodes) {
    const Open best = open.top();
    open.pop();
    tree.nodes.push_back({best.parent, s.guesses[size_t(best.depth)].tokens[best.rank], false});
    tree.gains.push_back(best.gain);
    gain_above.push_back(best.gain);
    offer(best.parent, best.depth, best.rank + 1);
    offer(tree.size() - 1, best.depth + 1, 0);
  }
  return tree;
}

DraftCounts MedusaDrafter::take_counts() {
  return std::exchange(counts_, {});
}

std::unique_ptr<Drafter> make_medusa_drafter(const DrafterSpec& spec, const DraftContext& context) {
  const ModelConfig target = ModelConfig::load(context.model);
  const HeadConfig config = load_head_config(HeadKind::kMedusa, spec.argument, target);
  const std::shared_ptr<const TensorSource> source =
      config.random
          ? random_head(MedusaHeads::tensors(config, MedusaHeads::extents(config, nullptr)),
                        target.checkpoint_dtype)
          : open_head(spec.argument);
  std::unique_ptr<Backend> backend = make_draft_backend(context);
  auto heads = std::make_unique<MedusaHeads>(
      *backend, config, *source,
      MedusaHeads::Options{.max_rows = std::min(context.max_sequences, 16),
                           .shared_noise = spec.shared_noise,
                           .dtype = context.dtype,
                           .float16 = context.float16});
  return std::make_unique<MedusaDrafter>(std::move(backend), std::move(heads));
}

}  // namespace convoke
