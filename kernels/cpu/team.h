// A team of threads that executes programs together.
//
// A program is one callable that every thread of the team executes at once, each with its own
// CpuStream; thread 0 is the one that called run(). Between programs the other threads wait:
// first spinning, then yielding, after some milliseconds asleep, using no processor time.
//
// A program that throws, on any thread, ends for all of them: threads that wait in a barrier, or
// come to one later, leave it with an exception of the team's own, and run() throws the first
// exception that the program threw. The team can be used again afterwards.
#pragma once

#include <memory>

#include "kernels/cpu/cpu_backend.h"
#include "kernels/function_ref.h"

namespace convoke::cpu {

class Team {
 public:
  /// Starts threads - 1 threads. `pin` binds every thread, the caller of run() included, to a
  /// processor of its own out of those this process may use.
  explicit Team(int threads, bool pin = false);
  ~Team();
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  int threads() const;

  /// Returns when every thread has left `program`. Allocates nothing. Of several threads that call
  /// it, one waits for the other. Never from inside a program.
  void run(FunctionRef<void(CpuStream&)> program);

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace convoke::cpu
