#include "actors/drafter_actor.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <unordered_set>

namespace convoke {
namespace {

// Between two introductions there is a round trip at least; and a coordinator that cannot help is
// not asked for ever.
constexpr Clock::duration kFirstPause = std::chrono::milliseconds(20);
constexpr Clock::duration kLongestPause = std::chrono::seconds(10);

bool has_probes(const DraftTree& tree) {
  return std::ranges::any_of(tree.nodes, &DraftNode::probe);
}

// Gives the verdicts their rows of the attachment. One that does not fit the counts belongs to
// another message or was cut: then the verdicts come without features.
void attach_features(VerdictBatch& batch, std::span<const std::byte> attachment) {
  const size_t row_bytes = size_t(batch.feature_width) * dtype_size(batch.feature_dtype);
  size_t rows = 0;
  for (const DraftVerdict& verdict : batch.verdicts) rows += size_t(verdict.features.rows);
  const bool fits = rows * row_bytes == attachment.size() && row_bytes > 0;
  if (!fits && rows > 0) {
    spdlog::warn("drafter: {} bytes of features where {} rows of {} bytes were announced",
                 attachment.size(), rows, row_bytes);
  }
  const std::byte* next = attachment.data();
  for (DraftVerdict& verdict : batch.verdicts) {
    const int64_t count = fits ? verdict.features.rows : 0;
    verdict.features = TensorView::matrix(const_cast<std::byte*>(next), batch.feature_dtype, count,
                                          batch.feature_width);
    if (fits) next += size_t(count) * row_bytes;
  }
}

}  // namespace

DrafterActor::DrafterActor(Drafter& drafter, DrafterActorOptions options, Clock::time_point now)
    : drafter_(drafter),
      options_(std::move(options)),
      next_heartbeat_(now),
      last_heard_(now),
      last_reachable_(now),
      last_introduced_(now),
      patience_(options_.reintroduce),
      pause_(kFirstPause) {}

void DrafterActor::introduce(Clock::time_point now, std::vector<Message>& out) {
  out.push_back(DrafterReady{drafter_.name(), options_.incarnation});
  introduced_ = true;
  lost_track_ = false;
  last_introduced_ = now;
}

void DrafterActor::handle(std::span<Letter> letters, Clock::time_point now,
                          std::vector<Message>& out) {
  if (letters.empty() || finished_) return;
  last_heard_ = last_reachable_ = now;
  patience_ = options_.reintroduce;
  std::vector<const VerdictBatch*> batches;
  for (Letter& letter : letters) {
    if (auto* batch = std::get_if<VerdictBatch>(&letter.message)) {
      on(*batch, letter.attachment);
      batches.push_back(batch);
      continue;
    }
    std::visit([this](auto& message) { on(message); }, letter.message);
    if (finished_) return;
  }
  // From the last batch to the first: only the last request for a sequence is worth the work.
  std::unordered_set<SequenceId> taken;
  std::vector<std::vector<SequenceId>> wanted(batches.size());
  for (size_t i = batches.size(); i-- > 0;) {
    for (SequenceId id : batches[i]->wanted) {
      if (taken.insert(id).second) wanted[i].push_back(id);
    }
  }
  for (size_t i = 0; i < batches.size(); ++i) out.push_back(answer(*batches[i], wanted[i]));
  if (!lost_track_) {
    pause_ = kFirstPause;
  } else if (now - last_introduced_ >= pause_) {
    pause_ = std::min(2 * pause_, kLongestPause);
    introduce(now, out);
  }
}

void DrafterActor::tick(Clock::time_point now, bool connected, std::vector<Message>& out) {
  if (finished_) return;
  if (connected) last_reachable_ = now;
  if (now - last_reachable_ >= options_.coordinator_silence) {
    finished_ = gone_ = true;
    reason_ = "the coordinator cannot be reached";
    return;
  }
  // What was sent while the connection was down may be lost. (The first time it comes up, the
  // introduction is still on its way.)
  const bool reconnected = connected && !was_connected_ && was_ever_connected_;
  const bool silence =
      !lengths_.empty() && now - std::max(last_heard_, last_introduced_) >= patience_;
  const bool lost_track = lost_track_ && now - last_introduced_ >= pause_;
  if (silence) patience_ *= 2;
  if (lost_track) pause_ = std::min(2 * pause_, kLongestPause);
  was_ever_connected_ |= connected;
  was_connected_ = connected;
  if (!introduced_ || reconnected || silence || lost_track) introduce(now, out);
  if (now >= next_heartbeat_) {
    out.push_back(Heartbeat{options_.rank, options_.host, options_.role, ++heartbeats_});
    next_heartbeat_ = now + options_.heartbeat;
  }
}

bool DrafterActor::work_ahead() {
  if (!options_.ahead || finished_ || lengths_.empty()) return false;
  const Clock::time_point start = Clock::now();
  bool more = false;
  try {
    more = drafter_.work_ahead();
  } catch (const std::exception& error) {
    spdlog::warn("drafter: {} failed to draft ahead: {}", drafter_.name(), error.what());
    options_.ahead = false;
  }
  if (more) hidden_seconds_ += std::chrono::duration<double>(Clock::now() - start).count();
  return more;
}

void DrafterActor::forget(SequenceId id) {
  if (lengths_.erase(id) > 0) drafter_.close(id);
}

void DrafterActor::refuse(SequenceId id, const char* what, const std::exception& error) {
  // No trees for this one, which costs speed only.
  spdlog::warn("drafter: {} cannot {} sequence {}: {}", drafter_.name(), what, id, error.what());
  forget(id);
  refused_.insert(id);
}

void DrafterActor::on(SequenceOpened& message) {
  const DraftSequence& sequence = message.sequence;
  forget(sequence.id);  // opened again: what we knew may be outdated
  refused_.erase(sequence.id);
  try {
    drafter_.open(sequence);
    lengths_[sequence.id] = int64_t(sequence.tokens.size());
  } catch (const std::exception& error) {
    refuse(sequence.id, "open", error);
  }
}

void DrafterActor::on(const SequenceClosed& message) {
  forget(message.id);
  refused_.erase(message.id);
}

void DrafterActor::on(VerdictBatch& message, std::span<const std::byte> attachment) {
  attach_features(message, attachment);
  for (const DraftVerdict& verdict : message.verdicts) apply(verdict);
  for (SequenceId id : message.wanted) {
    lost_track_ |= !lengths_.contains(id) && !refused_.contains(id);
  }
}

void DrafterActor::on(const Shutdown& message) {
  finished_ = true;
  reason_ = message.reason;
}

void DrafterActor::apply(const DraftVerdict& verdict) {
  const auto known = lengths_.find(verdict.id);
  if (known == lengths_.end()) return;  // if its tree is wanted, it will be asked for
  const int64_t end = int64_t(verdict.base_length) + int64_t(verdict.tokens.size());
  if (end <= known->second && !verdict.tokens.empty()) return;  // a repetition
  if (verdict.base_length != known->second) {
    forget(verdict.id);
    lost_track_ = true;
    return;
  }
  try {
    drafter_.advance(verdict);
    known->second = end;
  } catch (const std::exception& error) {
    refuse(verdict.id, "advance", error);
  }
}

DraftTrees DrafterActor::answer(const VerdictBatch& batch, const std::vector<SequenceId>& wanted) {
  const Clock::time_point start = Clock::now();
  DraftTrees reply;
  reply.step = batch.step;
  std::vector<SequenceId> ids;
  std::ranges::copy_if(wanted, std::back_inserter(ids),
                       [this](SequenceId id) { return lengths_.contains(id); });
  try {
    std::vector<DraftTree> trees = drafter_.propose(ids, batch.limits);
    for (size_t i = 0; i < ids.size() && i < trees.size(); ++i) {
      // Probes may reach deeper than any candidate may: what they tell is about later passes.
      truncate(trees[i], batch.limits.max_nodes,
               has_probes(trees[i]) ? batch.limits.max_nodes : batch.limits.max_depth);
      const auto defect = find_defect(trees[i], options_.vocabulary, options_.lookahead_count);
      if (!defect.empty()) {
        spdlog::warn("drafter: {} made a tree that is none: {}", drafter_.name(), defect);
        trees[i] = {};
      }
      reply.trees.push_back({ids[i], int32_t(lengths_[ids[i]]), std::move(trees[i])});
    }
  } catch (const std::exception& error) {
    spdlog::warn("drafter: {} failed to propose: {}", drafter_.name(), error.what());
    reply.trees.clear();
  }
  reply.counts = drafter_.take_counts();
  reply.hidden_seconds = std::exchange(hidden_seconds_, 0.0);
  reply.draft_seconds = std::chrono::duration<double>(Clock::now() - start).count();
  return reply;
}

}  // namespace convoke
