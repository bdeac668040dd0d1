// The memory through which ranks on one host meet, and how they wait for each other in it.
//
// One implementation serves threads of a process (any memory) and processes of a host (a shared
// mapping): everything in the region is position independent, and sleeping uses futexes, which work
// on both.
//
// Contract: every rank counts its *synchronisation points*; all ranks of a region pass the same
// points in the same order. post(s) publishes everything the rank did up to point s; wait_for(r, s)
// returns when rank r has posted s, and then what r wrote before is visible. Sequence numbers wrap
// around. post() is called by one thread of a rank at a time, wait_for() by any number.
#pragma once

#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "kernels/check.h"
#include "kernels/function_ref.h"

namespace convoke {

/// The tensor-parallel sizes that the summation tree and the reduction groups allow end here.
inline constexpr int kMaxRanks = 8;

struct RegionShape {
  int ranks = 1;
  int64_t reduce_capacity = 0;   ///< floats of one reduce buffer; every rank has two
  int64_t gather_capacity = 0;   ///< bytes of one gather buffer; every rank has two
  int64_t message_capacity = 0;  ///< bytes of one broadcast chunk; the region has two
};

enum class WaitResult { kDone, kBroken, kTimeout };

/// How long to wait, and in which manner: spin, then yield the core, then sleep.
struct WaitPolicy {
  int spins = 0;
  int yields = 0;
  std::chrono::nanoseconds limit{};
  /// Called about every 20 ms while asleep: may break the region, which ends the wait.
  FunctionRef<void()>* poll = nullptr;
};

/// One rank's view of a region. Does not own the memory.
class SharedRegion {
 public:
  static constexpr size_t kAlignment = 4096;  ///< of the memory
  static size_t bytes(const RegionShape& shape);
  /// Makes a region of fresh memory; once, before any rank uses it. Buffers are left untouched, so
  /// their pages land near the rank that writes them first.
  static void initialise(void* memory, const RegionShape& shape);

  SharedRegion(void* memory, const RegionShape& shape, int rank);

  int rank() const { return rank_; }
  int ranks() const { return shape_.ranks; }
  const RegionShape& shape() const { return shape_; }

  float* reduce_buffer(int rank, int parity) const;
  std::byte* gather_buffer(int rank, int parity) const;
  /// A broadcast chunk: the length of the whole message, and room for message_capacity bytes.
  uint64_t& message_length(int parity) const;
  std::byte* message_bytes(int parity) const;

  void post(uint32_t sequence);
  WaitResult wait_for(int rank, uint32_t sequence, const WaitPolicy& policy) const;

  /// This rank's mark, and any rank's (parallel/wait_watch.h).
  void set_mark(uint64_t mark);
  uint64_t mark(int rank) const;

  /// Ends all waits, now and later, on all ranks. The first caller's words stand.
  void break_with(ErrorKind kind, const std::string& reason) noexcept;
  bool broken() const;
  Error error() const;  ///< of a broken region

 private:
  struct Layout;
  struct RankState;
  struct Fault;
  Layout layout() const;
  RankState& state(int rank) const;
  Fault& fault() const;

  std::byte* memory_;
  RegionShape shape_;
  int rank_;
};

}  // namespace convoke
