// The set of processes that were started together, and what they do together before and after the
// real work: exchange endpoints, make communicators, end.
//
// Contract: one thread uses a Job at a time, all ranks make the same collective calls in the same
// order; kill() may be called from any thread at any time. Every wait is bounded: exchanges throw
// Error(kTimeout) that names the rank and host that did not come; MPI's own blocking calls (start,
// making a communicator, finish) end the process with a message instead, since they cannot be left.
// A Job outlives its communicators.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "parallel/communicator.h"
#include "parallel/launch.h"

namespace convoke {

struct JobOptions {
  double start_seconds = 120;    ///< for MPI to come up on all ranks
  double deadline_seconds = 60;  ///< for exchanges, and for all ranks to make a communicator
  double finish_seconds = 30;    ///< for all ranks to come to finish()
};

class Job {
 public:
  /// Looks at the environment; initialises MPI only if a launcher started this process. Throws
  /// Error(kUsage) if the launcher and MPI do not agree on the number of ranks (a launcher of
  /// another MPI, srun without --mpi=pmix).
  static std::unique_ptr<Job> start(const JobOptions& options = {});

  /// Without finish() before it, in a job of several processes, this is the end of a failed rank:
  /// it calls kill(1).
  ~Job();

  int rank() const;
  int size() const;
  bool launched() const;                ///< by a launcher: MPI is in use
  const std::string& launcher() const;  ///< "mpirun", "pmix", "pmi", "srun"; "none" alone
  const std::string& host() const;
  const std::vector<std::string>& hosts() const;      ///< [size] host of every rank
  const std::vector<int>& shared_host_ranks() const;  ///< ranks that share memory with this one,
                                                      ///< itself among them, ascending
  /// "rank 3 on host h2": for messages.
  std::string name_of(int rank) const;

  /// Element r is rank r's `mine`. Collective.
  std::vector<std::string> all_gather(const std::string& mine);
  /// Root's message, on every rank. Collective.
  std::string broadcast(const std::string& message, int root);
  /// Collective.
  void barrier();

  /// Collective over the whole job: each rank names the group it belongs to (1, 2, 4 or 8 world
  /// ranks in the order of their ranks in the communicator, the same list on all of them), or none:
  /// such a rank gets null. Groups do not overlap.
  std::unique_ptr<Communicator> make_communicator(const std::vector<int>& world_ranks,
                                                  const CommunicatorOptions& options);

  /// The orderly end: waits for all ranks and ends MPI. Communicators made here must not be used
  /// any more. After it only the accessors may be called.
  void finish();

  /// Ends this process, and with it the whole job, now: at most 2 s for this process, 6 s for a
  /// launcher that cannot reach all hosts any more. An exit code of 0 counts as 1. From any thread;
  /// does not return.
  [[noreturn]] void kill(int exit_code) noexcept;

 private:
  struct State;
  explicit Job(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace convoke
