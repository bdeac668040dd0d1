#include "actors/coordinator.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cstring>

#include "actors/pass_timer.h"
#include "kernels/check.h"

namespace convoke {
namespace {

/// After this many steps in a row without an answer, the drafter is no longer waited for until it
/// says something.
constexpr int kSilentSteps = 3;
/// Verdicts kept back from a drafter that is not asked for trees, at most.
constexpr size_t kMostBacklog = 512;
constexpr size_t kMostBacklogBytes = size_t{16} << 20;
/// A front end whose queue stays full for this long is taken for gone.
constexpr std::chrono::seconds kPeerPatience{10};

double seconds(Clock::duration d) {
  return std::chrono::duration<double>(d).count();
}

Clock::duration to_duration(double s) {
  return std::chrono::duration_cast<Clock::duration>(std::chrono::duration<double>(s));
}

TreePolicyOptions policy_options(const DraftLimits& limits, bool auto_size) {
  TreePolicyOptions options;
  if (!auto_size) options.fixed_nodes = limits.max_nodes;
  options.max_nodes = limits.max_nodes;
  options.max_depth = limits.max_depth;
  options.top_k = limits.top_k;
  return options;
}

FinishReason finish_reason(SequenceEnd end) {
  return end == SequenceEnd::kStop ? FinishReason::kStop : FinishReason::kLength;
}

void count_at(std::vector<int64_t>& counts, int32_t levels) {
  if (int32_t(counts.size()) < levels) counts.resize(size_t(levels));
  for (int32_t d = 0; d < levels; ++d) ++counts[size_t(d)];
}

}  // namespace

struct Coordinator::Request {
  PeerId peer;
  uint64_t client_id = 0;
  RequestStats stats;
  bool digests = false;
  Clock::time_point submitted;
  std::optional<Clock::time_point> first_token;
};

Coordinator::Coordinator(Mailbox& mailbox, StepRunner& runner, CoordinatorOptions options,
                         CoordinatorSignals& signals)
    : mailbox_(mailbox),
      runner_(runner),
      options_(std::move(options)),
      signals_(signals),
      scheduler_(options_.scheduler),
      policy_options_(policy_options(options_.draft_limits, /*auto_size=*/false)),
      policy_(policy_options_, PassCost()),
      last_plan_(Clock::now()) {}

Coordinator::~Coordinator() = default;

void Coordinator::run() {
  try {
    while (turn(Clock::now() + std::chrono::milliseconds(50))) {
    }
  } catch (const Error& error) {
    announce_fault(error.what());
    throw;
  }
  cancel_all();
  if (drafter_) observers_.insert(drafter_->peer);
  for (const PeerId& peer : observers_) mailbox_.send(peer, Shutdown{"the job ends"});
}

bool Coordinator::turn(Clock::time_point idle_until) {
  const Clock::time_point start = Clock::now();
  // With work at hand only what is already there is taken; else wait for something to arrive.
  handle_arrivals(scheduler_.idle() && outbox_.empty() ? idle_until : start);
  flush_outbox();
  notice_departures();
  if (signals_.stop.load() || shutdown_) return false;
  if (!scheduler_.idle()) {
    if (!turn_start_) turn_start_ = start;
    step();
    return true;
  }
  turn_start_.reset();
  if (Clock::now() - last_plan_ > options_.keepalive) {
    runner_.run(scheduler_.plan({}), result_);
    scheduler_.commit(result_);
    last_plan_ = Clock::now();
  }
  return true;
}

// --- arrivals -----------------------------------------------------------------------------------

void Coordinator::handle_arrivals(Clock::time_point until) {
  std::optional<Letter> letter = mailbox_.receive(until);
  while (letter) {
    handle(*letter);
    letter = mailbox_.receive(Clock::now());
  }
}

void Coordinator::handle(Letter& letter) {
  std::visit([&](auto& message) { on(letter.from, message); }, letter.message);
}

template <typename T>
void Coordinator::on(const PeerId&, T&) {
  spdlog::warn("{}: dropped a message that is not for a coordinator", options_.role);
}

void Coordinator::on(const PeerId& from, SubmitRequest& message) {
  const SequenceId id = next_id_++;
  Request request;
  request.peer = from;
  request.client_id = message.request;
  request.digests = message.sampling.digests;
  request.submitted = Clock::now();
  request.stats.prompt_tokens = int64_t(message.prompt.size());
  DraftSequence opened{id, message.prompt, int32_t(message.prompt.size()), message.sampling};
  try {
    if (by_client_.contains({from, message.request})) {
      throw_error(ErrorKind::kUsage, "request {} is already running", message.request);
    }
    scheduler_.add(id, std::move(message.prompt), message.sampling);
  } catch (const Error& error) {
    RequestOutput output{.request = message.request, .finish = FinishReason::kError};
    output.error = error.what();
    output.stats = request.stats;
    send_output(from, std::move(output));
    return;
  }
  by_client_[{from, message.request}] = id;
  requests_.emplace(id, std::move(request));
  if (drafter_ && drafter_->in_sync) {
    drafter_->in_sync = mailbox_.send(drafter_->peer, SequenceOpened{std::move(opened)});
  }
}

void Coordinator::on(const PeerId& from, CancelRequest& message) {
  const auto found = by_client_.find({from, message.request});
  if (found == by_client_.end()) return;  // it has ended already: its last output is on the way
  const SequenceId id = found->second;
  scheduler_.cancel(id);
  finish(requests_.at(id), {.request = message.request, .finish = FinishReason::kCancelled});
  by_client_.erase({from, message.request});
  forget(id);
}

void Coordinator::on(const PeerId& from, DraftTrees& message) {
  if (!drafter_ || drafter_->peer != from) return;
  if (message.step == drafter_->asked_step) drafter_->asked_step = 0;
  if (drafter_->silent >= kSilentSteps) drafter_->in_sync = false;  // it missed verdicts meanwhile
  drafter_->silent = 0;
  draft_report_.hidden += message.hidden_seconds;
  draft_report_.counts.outcomes += message.counts.outcomes;
  draft_report_.counts.outcomes_in_tree += message.counts.outcomes_in_tree;
  draft_report_.counts.passes += message.counts.passes;
  for (SequenceTree& tree : message.trees) {
    const auto request = requests_.find(tree.id);
    if (request == requests_.end()) continue;
    drafts_[tree.id] = {tree.base_length, std::move(tree.tree)};
  }
}

void Coordinator::on(const PeerId& from, DrafterReady& message) {
  spdlog::debug("{}: drafter '{}' is ready (start {})", options_.role, message.method,
                message.incarnation);
  drafter_ = DrafterState{.peer = from};
  drafts_.clear();
  backlog_.clear();
  follow_draft_setup();
  measure_passes();
  ask_for_trees({});
  signals_.drafter_connected.store(true);
  signals_.drafters_seen.fetch_add(1);
}

void Coordinator::on(const PeerId& from, Heartbeat&) {
  observers_.insert(from);  // wants to know when this replica ends
}

void Coordinator::on(const PeerId& from, Fault& message) {
  if (drafter_ && drafter_->peer == from) {
    if (!message.orderly) spdlog::warn("the drafter failed: {}", message.reason);
    lose_drafter();
  }
}

void Coordinator::on(const PeerId&, Shutdown&) {
  shutdown_ = true;
}

// --- a step -------------------------------------------------------------------------------------

// A drafter may have been exchanged for one that needs other things of the target.
void Coordinator::follow_draft_setup() {
  if (options_.draft_setup == nullptr || options_.draft_setup->version() == setup_version_) return;
  setup_version_ = options_.draft_setup->version();
  const auto support = options_.draft_setup->get();
  scheduler_.set_lookahead_count(support->needs.lookahead_count);
  policy_options_ = policy_options(support->limits, support->auto_size);
  policy_ = TreePolicy(policy_options_, policy_.cost());
}

// Once, before anything runs: the policy weighs every further row against what it costs.
void Coordinator::measure_passes() {
  if (passes_measured_ || policy_options_.fixed_nodes || !scheduler_.idle()) return;
  passes_measured_ = true;
  // The shards have still to hear of the sequences that ended last.
  runner_.run(scheduler_.plan({}), result_);
  scheduler_.commit(result_);
  policy_ = TreePolicy(policy_options_, PassCost(time_passes(runner_, options_.scheduler)));
}

void Coordinator::step() {
  follow_draft_setup();
  collect_trees();
  cut_trees();
  const StepPlan& plan = scheduler_.plan([this](SequenceId id, int32_t length) -> DraftTree* {
    const auto draft = drafts_.find(id);
    if (draft == drafts_.end() || draft->second.base_length != length) return nullptr;
    return &draft->second.tree;
  });
  const Clock::time_point now = Clock::now();
  for (const OpenSequence& open : plan.opened) {
    RequestStats& stats = requests_.at(open.id).stats;
    if (stats.queue_seconds == 0) {  // not when it comes back from a preemption
      stats.queue_seconds = seconds(now - requests_.at(open.id).submitted);
    }
  }
  runner_.run(plan, result_);
  last_plan_ = Clock::now();
  ++step_;
  pass_seconds_ = pass_seconds_ == 0 ? result_.compute_seconds
                                     : 0.9 * pass_seconds_ + 0.1 * result_.compute_seconds;
  policy_.observe_pass(plan.rows(), result_.compute_seconds);
  const std::span<const Progress> done = scheduler_.commit(result_);
  for (const Progress& p : done) {
    policy_.observe_outcome(p.id, plan.sequences[size_t(p.sequence)].tree, p.accepted_nodes);
  }

  // A drafter with cores of its own works while the rest is done here. One that shares ours would
  // only get in the way, and its time would be taken for the coordinator's.
  if (options_.drafter_has_cores) tell_drafter(done);

  StepTimes times;
  times.draft = draft_report_.wait;
  times.communication = result_.communication_seconds;
  times.target = result_.compute_seconds - result_.communication_seconds;
  const Clock::time_point end = Clock::now();
  times.total = seconds(end - *turn_start_);
  turn_start_ = end;
  for (const Progress& p : done) report_one(p, times);
  draft_report_ = {};
  if (!options_.drafter_has_cores) tell_drafter(done);
}

void Coordinator::tell_drafter(std::span<const Progress> done) {
  for (const Progress& p : done) drafts_.erase(p.id);
  if (!drafter_) return;
  const StepPlan& plan = scheduler_.last_plan();
  std::vector<DraftVerdict> verdicts;
  const TensorView& features = result_.features;
  // Rows and names do not share a message.
  if (!backlog_.empty() && features.rows > 0 && features.dtype != feature_dtype_) {
    send_verdicts({.step = step_, .limits = asked_limits_});
  }
  if (backlog_.empty()) features_.clear();
  for (const Progress& p : done) {
    if (p.end != SequenceEnd::kNone) continue;
    DraftVerdict& verdict = verdicts.emplace_back();
    verdict.id = p.id;
    verdict.base_length = p.base_length;
    for (const CommittedToken& t : p.tokens) verdict.tokens.push_back(t.token);
    verdict.verified = p.verified;
    for (const ProbePicks& probe : p.probes) {
      verdict.probes.push_back(
          {probe.node, probe.pick, {probe.ranked.begin(), probe.ranked.end()}});
    }
    add_features(verdict, plan.sequences[size_t(p.sequence)], result_.sequences[size_t(p.sequence)],
                 p.accepted_nodes);
  }
  // Parts of prompts pick nothing, but their features are the drafter's context.
  for (size_t i = 0; result_.features.rows > 0 && i < plan.sequences.size(); ++i) {
    const SequenceId id = scheduler_.planned()[i];
    if (id == 0 || !result_.sequences[i].picks.empty()) continue;
    DraftVerdict& verdict = verdicts.emplace_back();
    verdict.id = id;
    verdict.base_length = int32_t(scheduler_.tokens(id).size());
    add_features(verdict, plan.sequences[i], result_.sequences[i], {});
  }
  ask_for_trees(std::move(verdicts));
}

// The rows that were committed: the chain, then the accepted nodes.
void Coordinator::add_features(DraftVerdict& verdict, const SequenceRows& rows,
                               const SequencePicks& picks, std::span<const int32_t> accepted) {
  const TensorView& all = result_.features;
  if (all.rows == 0) return;
  feature_dtype_ = all.dtype;
  feature_width_ = all.cols;
  const auto chain = int64_t(rows.chain.size());
  const size_t bytes = size_t(all.cols) * dtype_size(all.dtype);
  const auto append = [&](int64_t row, int64_t count) {
    const auto* first = all.row<std::byte>(row);
    features_.insert(features_.end(), first, first + size_t(count) * bytes);
  };
  append(picks.first_row, chain);
  for (int32_t node : accepted) append(picks.first_row + chain + node, 1);
  verdict.feature_begin = rows.context;
  verdict.features.rows = chain + int64_t(accepted.size());
}

bool Coordinator::drafter_answers() const {
  return drafter_ && drafter_->silent < kSilentSteps;
}

Clock::duration Coordinator::draft_deadline() const {
  if (options_.draft_deadline.count() > 0) return to_duration(options_.draft_deadline.count());
  return to_duration(std::max(0.020, 4 * pass_seconds_));
}

void Coordinator::collect_trees() {
  const Clock::time_point start = Clock::now();
  const bool asked = drafter_answers() && drafter_->asked_step != 0;
  if (asked) {
    const Clock::time_point deadline = start + draft_deadline();
    while (drafter_ && drafter_->asked_step != 0 && !signals_.stop.load()) {
      std::optional<Letter> letter = mailbox_.receive(deadline);
      if (letter) {
        handle(*letter);
      } else if (Clock::now() >= deadline) {
        break;
      }
    }
    if (drafter_ && drafter_->asked_step != 0) {
      draft_report_.late = true;
      drafter_->asked_step = 0;
      if (++drafter_->silent == kSilentSteps) {
        spdlog::warn("{}: the drafter has not answered {} steps; decoding goes on without it",
                     options_.role, kSilentSteps);
      }
    }
  }
  draft_report_.wait = seconds(Clock::now() - start);
  if (asked && !draft_report_.late && !asked_to_catch_up_) {
    policy_.observe_draft(asked_limits_, draft_report_.wait);
  }
}

// Leaves of each tree what is worth its rows.
void Coordinator::cut_trees() {
  if (drafts_.empty()) return;
  std::vector<TreePolicy::Offer> offers;
  for (SequenceId id : scheduler_.decoding()) {
    const auto draft = drafts_.find(id);
    const bool fits = draft != drafts_.end() &&
                      draft->second.base_length == int32_t(scheduler_.tokens(id).size());
    offers.push_back({id, fits ? &draft->second.tree : nullptr});
  }
  const int budget = std::max(0, options_.scheduler.max_rows - int(offers.size()));
  const std::vector<int> nodes = policy_.choose(offers, 0, budget, draft_report_.wait);
  for (size_t i = 0; i < offers.size(); ++i) {
    if (offers[i].tree == nullptr) continue;
    DraftTree& tree = drafts_.at(offers[i].id).tree;
    truncate(tree, nodes[i], tree.size());
  }
}

void Coordinator::introduce_sequences() {
  drafter_->in_sync = true;
  for (const auto& [id, request] : requests_) {
    const std::span<const int32_t> tokens = scheduler_.tokens(id);
    SequenceOpened opened{{id,
                           {tokens.begin(), tokens.end()},
                           scheduler_.prompt_tokens(id),
                           scheduler_.sampling(id)}};
    if (!mailbox_.send(drafter_->peer, opened)) {
      drafter_->in_sync = false;  // its queue is full or it is gone: all again after the next step
      return;
    }
  }
}

void Coordinator::ask_for_trees(std::vector<DraftVerdict> verdicts) {
  if (!drafter_answers()) {
    backlog_.clear();
    return;
  }
  if (drafter_->in_sync) {
    backlog_.insert(backlog_.end(), std::make_move_iterator(verdicts.begin()),
                    std::make_move_iterator(verdicts.end()));
  } else {
    backlog_.clear();
    introduce_sequences();  // with the tokens of these verdicts
  }
  TreePolicy::Round round = policy_.next_round(scheduler_.decoding());
  // While no tree pays, a drafter on our cores is not even woken: plain decoding is to be plain.
  const bool may_wait =
      !options_.drafter_has_cores && backlog_.size() < kMostBacklog && features_may_wait();
  if (drafter_->in_sync && round.wanted.empty() && (backlog_.empty() || may_wait)) return;
  asked_limits_ = round.limits;
  asked_to_catch_up_ = takes_catching_up(backlog_);
  const bool wanted = !round.wanted.empty();
  const bool sent =
      send_verdicts({.step = step_ + 1, .wanted = std::move(round.wanted), .limits = round.limits});
  if (sent && wanted) drafter_->asked_step = step_ + 1;
}

/// With all that waits.
bool Coordinator::send_verdicts(VerdictBatch batch) {
  batch.verdicts = std::exchange(backlog_, {});
  batch.feature_dtype = feature_dtype_;
  batch.feature_width = feature_width_;
  const std::span<const std::byte> features =
      batch.verdicts.empty() ? std::span<const std::byte>() : features_;
  if (drafter_->in_sync && mailbox_.send(drafter_->peer, batch, features)) return true;
  drafter_->in_sync = false;
  ++drafter_->silent;
  return false;
}

/// Rows as long as there is room for them; names half as long as they stay, which leaves the
/// drafter the other half.
bool Coordinator::features_may_wait() const {
  if (features_.size() >= kMostBacklogBytes) return false;
  if (feature_dtype_ != kFeatureNames || features_.empty()) return true;
  int64_t oldest = 0, newest = 0;
  std::memcpy(&oldest, features_.data(), sizeof oldest);
  std::memcpy(&newest, features_.data() + features_.size() - sizeof newest, sizeof newest);
  return newest - oldest < kNamesThatStay / 2;
}

// A whole prompt, or what came while no tree was wanted: the next trees take longer than trees do,
// and the policy must not learn from that.
bool Coordinator::takes_catching_up(std::span<const DraftVerdict> verdicts) const {
  constexpr int64_t kUsualRows = 64;
  int64_t tokens = 0;
  for (const DraftVerdict& verdict : verdicts) {
    tokens += std::max(int64_t(verdict.tokens.size()), verdict.features.rows);
    const bool live = requests_.contains(verdict.id);  // one kept back may have ended since
    if (live && verdict.base_length == scheduler_.prompt_tokens(verdict.id)) return true;
  }
  return tokens > kUsualRows;
}

void Coordinator::lose_drafter() {
  drafter_.reset();
  drafts_.clear();
  signals_.drafter_connected.store(false);
}

// --- reports ------------------------------------------------------------------------------------

void Coordinator::report_drafting(RequestStats& stats) {
  stats.draft_hidden_seconds += draft_report_.hidden;
  if (draft_report_.late) ++stats.late_drafts;
  // Counted for the batch: one request of the step takes them, so that sums over requests hold.
  stats.draft_outcomes += std::exchange(draft_report_.counts.outcomes, 0);
  stats.draft_outcomes_in_tree += std::exchange(draft_report_.counts.outcomes_in_tree, 0);
  stats.draft_passes += std::exchange(draft_report_.counts.passes, 0);
}

void Coordinator::report_one(const Progress& progress, const StepTimes& times) {
  Request& request = requests_.at(progress.id);
  RequestStats& stats = request.stats;
  const Clock::time_point now = Clock::now();
  if (!request.first_token) {
    request.first_token = now;
    stats.first_token_seconds = seconds(now - request.submitted);
  } else {
    ++stats.decode_steps;
    stats.draft_seconds += times.draft;
    stats.target_seconds += times.target;
    stats.communication_seconds += times.communication;
    stats.other_seconds +=
        std::max(0.0, times.total - times.draft - times.target - times.communication);
    report_drafting(stats);
  }
  stats.preemptions = progress.preemptions;
  stats.output_tokens += int64_t(progress.tokens.size());
  if (progress.draft_nodes > 0) {
    ++stats.drafts;
    stats.draft_tokens += progress.draft_nodes;
    stats.accepted_tokens += progress.accepted;
    count_at(stats.drafted_by_depth, progress.draft_depth);
    count_at(stats.accepted_by_depth, progress.accepted);
  }
  RequestOutput output{.request = request.client_id};
  for (const CommittedToken& token : progress.tokens) {
    OutputToken& out = output.tokens.emplace_back();
    out.token = token.token;
    out.drafted = token.drafted;
    if (request.digests) out.digest = token.digest;
    if (token.logprobs != nullptr) out.logprobs = *token.logprobs;
  }
  if (progress.end == SequenceEnd::kNone) {
    send_output(request.peer, std::move(output));
    return;
  }
  output.finish = finish_reason(progress.end);
  output.stop_token = progress.stop_token;
  finish(request, std::move(output));
  by_client_.erase({request.peer, request.client_id});
  forget(progress.id);
}

void Coordinator::finish(Request& request, RequestOutput output) {
  request.stats.total_seconds = seconds(Clock::now() - request.submitted);
  output.stats = request.stats;
  send_output(request.peer, std::move(output));
}

void Coordinator::cancel_all() {
  for (auto& [id, request] : requests_) {
    finish(request, {.request = request.client_id, .finish = FinishReason::kCancelled});
  }
  requests_.clear();
  by_client_.clear();
  flush_outbox();
}

void Coordinator::announce_fault(const std::string& reason) {
  // One message a front end: with the replica, all its requests are lost.
  std::set<PeerId> peers;
  for (const auto& [client, id] : by_client_) peers.insert(client.first);
  for (const PeerId& peer : peers) {
    mailbox_.send(peer, Fault{.role = options_.role, .orderly = false, .reason = reason});
  }
}

void Coordinator::send_output(const PeerId& to, RequestOutput output) {
  // Order within a peer must hold: behind a waiting parcel everything waits.
  const bool behind = std::ranges::any_of(outbox_, [&](const Parcel& p) { return p.to == to; });
  if (behind || !mailbox_.send(to, output)) {
    outbox_.push_back({to, std::move(output), Clock::now()});
  }
}

void Coordinator::flush_outbox() {
  while (!outbox_.empty()) {
    Parcel& parcel = outbox_.front();
    if (mailbox_.send(parcel.to, parcel.output)) {
      outbox_.pop_front();
      continue;
    }
    if (Clock::now() - parcel.since < kPeerPatience) return;
    spdlog::warn("{}: a front end has not taken its output for {} s; its requests are cancelled",
                 options_.role, kPeerPatience.count());
    drop_client(PeerId(parcel.to));
  }
}

void Coordinator::drop_client(const PeerId& peer) {
  std::erase_if(outbox_, [&](const Parcel& p) { return p.to == peer; });
  for (auto it = by_client_.begin(); it != by_client_.end();) {
    if (it->first.first != peer) {
      ++it;
      continue;
    }
    scheduler_.cancel(it->second);
    forget(it->second);
    it = by_client_.erase(it);
  }
}

void Coordinator::forget(SequenceId id) {
  drafts_.erase(id);
  policy_.forget(id);
  requests_.erase(id);
  if (drafter_ && drafter_->in_sync) mailbox_.send(drafter_->peer, SequenceClosed{id});
}

void Coordinator::notice_departures() {
  for (const PeerId& peer : mailbox_.departed()) {
    if (drafter_ && drafter_->peer == peer) {
      spdlog::warn("{}: the drafter is gone; decoding goes on without it", options_.role);
      lose_drafter();
    }
    drop_client(peer);
    observers_.erase(peer);
  }
}

}  // namespace convoke
