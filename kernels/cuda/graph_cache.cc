#include "kernels/cuda/graph_cache.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke::cuda {
namespace {

/// What the log enqueues while the stream is captured, ready to be launched.
CUgraphExec_st* make_graph(const CudaStream& stream, const LaunchLog& log) {
  begin_capture(stream.handle);
  try {
    log.issue(stream);
  } catch (...) {
    drop_capture(stream.handle);
    throw;
  }
  return end_capture(stream.handle);
}

}  // namespace

/// The program with this log, moved to the front; or null.
GraphCache::Program* GraphCache::find(const LaunchLog& log) {
  // Logs of other programs differ early, so there is not much to compare.
  const auto at = std::ranges::find_if(programs_, [&](const auto& p) { return p->log == log; });
  if (at == programs_.end()) return nullptr;
  std::rotate(programs_.begin(), at, at + 1);
  return programs_.front().get();
}

void GraphCache::run(const CudaStream& stream, const LaunchLog& log) {
  CONVOKE_CHECK(stream.log == nullptr);
  Program* const known = log.count() <= kFewLaunches ? nullptr : find(log);
  if (known != nullptr) {
    if (known->graph == nullptr) {
      known->graph.reset(make_graph(stream, log));
      ++counters_.made;
    }
    launch_graph(known->graph.get(), stream.handle);
    ++counters_.replayed;
    return;
  }
  log.issue(stream);
  ++counters_.launched_singly;
  if (log.count() <= kFewLaunches) return;
  // The stream may still be running the graph that is forgotten; what is destroyed then goes when
  // it is done.
  if (programs_.size() == kMostPrograms) programs_.pop_back();
  programs_.insert(programs_.begin(), std::make_unique<Program>(log));
}

}  // namespace convoke::cuda
