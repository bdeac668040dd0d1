// Fibers: stacks of their own that take turns on one thread.
//
// A switch is a few instructions (x86-64) or a swapcontext (elsewhere), and is announced to the
// address and thread sanitizers. Below every stack lies a page that must not be touched.
#pragma once

#include <cstddef>
#include <memory>

namespace convoke::emulation {

class Fiber {
 public:
  /// The thread's own stack, so that fibers can switch back to it.
  Fiber();
  /// A new stack on which `entry(argument)` will run at the first switch to it. It must not return.
  Fiber(void (*entry)(void*), void* argument);
  ~Fiber();
  Fiber(const Fiber&) = delete;
  Fiber& operator=(const Fiber&) = delete;

  /// Leaves `from`, which must be running, and continues `to`. Returns when somebody switches back.
  static void switch_to(Fiber& from, Fiber& to);

 private:
  struct State;
  static void enter(State* state);
  static void entry_point(unsigned high, unsigned low);
  std::unique_ptr<State> state_;
};

}  // namespace convoke::emulation
