// Programs that come again, as graphs: one launch for all of their kernels.
#pragma once

#include <memory>
#include <vector>

#include "kernels/cuda/device_runtime.h"
#include "kernels/cuda/launch_log.h"

namespace convoke::cuda {

/// What was done with logs so far.
struct GraphCounters {
  uint64_t launched_singly = 0;  ///< logs whose launches were enqueued one by one
  uint64_t made = 0;             ///< graphs
  uint64_t replayed = 0;         ///< logs that a graph stood for, the one that it was made of too
};

class GraphCache {
 public:
  /// Enqueues what the log says. What comes for the first time is enqueued one by one, which also
  /// loads its kernels (a capture must not); the second time a graph is made of it. Of the programs
  /// seen last kMostPrograms are kept, the rest forgotten. A log of a few launches gains nothing.
  void run(const CudaStream& stream, const LaunchLog& log);
  /// Forgets all programs.
  void clear() { programs_.clear(); }
  const GraphCounters& counters() const { return counters_; }

 private:
  static constexpr size_t kMostPrograms = 96;
  static constexpr int kFewLaunches = 8;

  struct Destroy {
    void operator()(CUgraphExec_st* graph) const { destroy_graph(graph); }
  };
  struct Program {
    LaunchLog log;
    std::unique_ptr<CUgraphExec_st, Destroy> graph;  ///< once it has come twice
  };
  Program* find(const LaunchLog& log);

  std::vector<std::unique_ptr<Program>> programs_;  ///< the last used first
  GraphCounters counters_;
};

}  // namespace convoke::cuda
