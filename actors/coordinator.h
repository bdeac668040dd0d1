// The coordinator of one replica: the only source of order. It takes requests, keeps the scheduler
// going, collects draft trees, has every shard execute the step plans, verifies, and sends out
// verdicts and tokens.
//
// Threads: everything happens on the thread that calls run(); others see CoordinatorSignals only.
#pragma once

#include <atomic>
#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "actors/mailbox.h"
#include "actors/messages.h"
#include "runtime/draft_setup.h"
#include "runtime/scheduler.h"
#include "runtime/step_plan.h"
#include "runtime/tree_policy.h"

namespace convoke {

/// Has all shards of the replica execute a plan, this one included.
class StepRunner {
 public:
  virtual ~StepRunner() = default;
  virtual void run(const StepPlan& plan, StepResult& result) = 0;
};

struct CoordinatorOptions {
  SchedulerOptions scheduler;
  /// Without a `draft_setup`: every sequence is asked for a tree of this size in every step.
  DraftLimits draft_limits{.max_nodes = 16};
  bool drafter_has_cores = false;  ///< it does not share those of the first shard
  /// How long a step waits for trees; 0 = four passes of the target, at least 20 ms. Trees that
  /// miss it count as empty.
  std::chrono::duration<double> draft_deadline{0};
  /// Idle shards hear from the coordinator this often.
  std::chrono::milliseconds keepalive{1000};
  std::string role = "coordinator of replica 0";
  const DraftSetup* draft_setup =
      nullptr;  ///< outlives the coordinator; null: no probes, no features
};

/// What other threads may ask of and know about a running coordinator. Outlives it.
struct CoordinatorSignals {
  std::atomic<bool> stop{false};           ///< leave run() after the current step
  std::atomic<uint32_t> drafters_seen{0};  ///< how many have reported ready so far
  std::atomic<bool> drafter_connected{false};
};

class Coordinator {
 public:
  Coordinator(Mailbox& mailbox, StepRunner& runner, CoordinatorOptions options,
              CoordinatorSignals& signals);
  ~Coordinator();

  /// Until a front end sends Shutdown or `signals.stop` is set (live requests are cancelled), or
  /// a shard fails: then the front ends get a Fault and the Error is thrown on.
  void run();

  /// One turn: handles what has arrived and executes at most one step; waits at most until
  /// `idle_until` when there is nothing to do. False once asked to stop.
  bool turn(Clock::time_point idle_until);

 private:
  struct Request;
  /// What is known of the drafter. `silent` counts steps in a row whose trees did not come.
  struct DrafterState {
    PeerId peer;
    uint64_t asked_step = 0;  ///< VerdictBatch that has not been answered; 0 = none
    int silent = 0;
    bool in_sync = false;  ///< it has been told of every live sequence
  };
  struct StepTimes {
    double draft = 0, target = 0, communication = 0, total = 0;
  };
  /// What came with the trees of a step.
  struct DraftReport {
    double wait = 0;    ///< seconds the step waited
    double hidden = 0;  ///< seconds drafted ahead
    DraftCounts counts;
    bool late = false;
  };

  void handle_arrivals(Clock::time_point until);
  void handle(Letter& letter);
  void on(const PeerId& from, SubmitRequest& message);
  void on(const PeerId& from, CancelRequest& message);
  void on(const PeerId& from, DraftTrees& message);
  void on(const PeerId& from, DrafterReady& message);
  void on(const PeerId& from, Heartbeat& message);
  void on(const PeerId& from, Fault& message);
  void on(const PeerId& from, Shutdown& message);
  template <typename T>
  void on(const PeerId& from, T& message);  // messages a coordinator never receives

  void step();
  void follow_draft_setup();
  void measure_passes();
  void collect_trees();
  void cut_trees();
  Clock::duration draft_deadline() const;
  void introduce_sequences();
  void tell_drafter(std::span<const Progress> done);
  void add_features(DraftVerdict& verdict, const SequenceRows& rows, const SequencePicks& picks,
                    std::span<const int32_t> accepted);
  void ask_for_trees(std::vector<DraftVerdict> verdicts);
  bool send_verdicts(VerdictBatch batch);
  bool features_may_wait() const;
  bool takes_catching_up(std::span<const DraftVerdict> verdicts) const;
  void lose_drafter();
  bool drafter_answers() const;

  void report_one(const Progress& progress, const StepTimes& times);
  void report_drafting(RequestStats& stats);
  void finish(Request& request, RequestOutput output);
  void cancel_all();
  void announce_fault(const std::string& reason);
  void send_output(const PeerId& to, RequestOutput output);
  void flush_outbox();
  void drop_client(const PeerId& peer);
  void forget(SequenceId id);
  void notice_departures();

  Mailbox& mailbox_;
  StepRunner& runner_;
  CoordinatorOptions options_;
  CoordinatorSignals& signals_;
  Scheduler scheduler_;
  StepResult result_;
  std::vector<DraftVerdict> backlog_;  ///< verdicts not sent yet
  std::vector<std::byte> features_;    ///< theirs, in order
  DType feature_dtype_ = DType::kBFloat16;
  int64_t feature_width_ = 0;
  std::optional<DrafterState> drafter_;
  struct Draft {
    int32_t base_length = 0;
    DraftTree tree;
  };
  std::unordered_map<SequenceId, Draft> drafts_;
  std::unordered_map<SequenceId, Request> requests_;
  std::map<std::pair<PeerId, uint64_t>, SequenceId> by_client_;
  struct Parcel {
    PeerId to;
    RequestOutput output;
    Clock::time_point since;
  };
  std::deque<Parcel> outbox_;   ///< outputs whose peer's queue was full
  std::set<PeerId> observers_;  ///< peers that sent heartbeats
  SequenceId next_id_ = 1;
  uint64_t step_ = 0;
  uint64_t setup_version_ = 0;
  double pass_seconds_ = 0;  ///< running mean of the target's passes
  DraftReport draft_report_;
  DraftLimits asked_limits_;        ///< of the trees being waited for
  bool asked_to_catch_up_ = false;  ///< and making them takes longer than usual
  TreePolicyOptions policy_options_;
  TreePolicy policy_;
  bool passes_measured_ = false;
  Clock::time_point last_plan_;
  std::optional<Clock::time_point> turn_start_;  ///< while steps follow each other
  bool shutdown_ = false;
};

}  // namespace convoke
