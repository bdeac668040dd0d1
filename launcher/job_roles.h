// A job of several ranks: what each of them does, from joining to the orderly end.
//
// All ranks are started with the same command line. The first one runs the command (generate,
// batch, bench) and is shard 0 of replica 0; the others only have a role. Start-up is a fixed
// sequence of collective exchanges in which every rank says how it fared, so that a rank that
// cannot start (a missing file on one host, say) ends the job with its reason on every rank instead
// of a hang.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "actors/supervisor.h"
#include "launcher/hosts.h"
#include "launcher/replica.h"
#include "parallel/job.h"
#include "parallel/roles.h"

namespace convoke {

class JobMember {
 public:
  /// Joins the job this process was started in, once; null when it was started alone. Roles follow
  /// from the options; throws Error(kUsage) (on every rank alike) when the numbers do not fit.
  static JobMember* join(const EngineOptions& options);
  /// What join() returned, or null.
  static JobMember* current();

  const Roles& roles() const { return roles_; }
  int rank() const { return job_->rank(); }
  const Role& role() const { return roles_.ranks[size_t(job_->rank())]; }
  std::string describe() const { return roles_.describe(job_->rank()); }
  Job& job() { return *job_; }

  /// Collective: checks model and flags on every shard rank and agrees on what must be equal
  /// everywhere (instruction set, cache size). Drafter ranks take part with a config only.
  ReplicaSetup agree_on_setup(const EngineOptions& options);
  /// Collective: the communicator of this rank's replica (null on a drafter rank).
  std::unique_ptr<Communicator> make_communicator(const ReplicaSetup& setup);
  /// Collective: `mine` is empty where there is nothing to tell. If any rank reports an error, it
  /// is thrown on every rank.
  std::vector<std::string> exchange(const std::string& mine, const std::string& error);
  /// Whether an exchange has thrown: then all ranks know, and the job can end in good order.
  bool agreed_to_fail() const { return agreed_to_fail_; }
  /// Collective: starts watching the other ranks. When one dies or fails, one message is printed
  /// and the whole job is ended. `signals`: whether SIGTERM and SIGINT are handled here (and
  /// ignored, as the first rank decides) or by the command that runs.
  void start_supervisor(bool signals);
  /// This rank cannot go on; the supervisor tells everybody and ends the job.
  void fail(const std::string& reason);
  /// Collective: the orderly end.
  void finish();

  /// The GPU of a drafter rank (launcher/draft_device.h); -1 where its host has none.
  int draft_gpu() const;

  /// Where this rank's coordinator should bind: ipc inside one host, else a TCP port.
  std::vector<std::string> coordinator_endpoints() const;

 private:
  /// Ranks of one kind on this host that come before `end`: as many GPUs are theirs.
  int ranks_on_host(Role::Kind kind, int end) const;
  std::string outside_endpoint() const;
  JobMember(std::unique_ptr<Job> job, Roles roles)
      : job_(std::move(job)), roles_(std::move(roles)) {}

  std::unique_ptr<Job> job_;
  Roles roles_;
  std::unique_ptr<Supervisor> supervisor_;
  bool agreed_to_fail_ = false;
};

/// The IPv4 address that other hosts reach this one by: of the interface named in
/// CONVOKE_INTERFACE, else what the host name resolves to, else the first interface that is up and
/// not loopback.
std::string host_address();

}  // namespace convoke
