#include "tests/support/cuda_emulation/fiber.h"

#include <sys/mman.h>
#include <ucontext.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if defined(__SANITIZE_THREAD__)
#include <sanitizer/tsan_interface.h>
#endif

namespace convoke::emulation {
namespace {

constexpr size_t kStackBytes = 256 * 1024;  // touched pages count, not reserved ones

}  // namespace

#if defined(__x86_64__)
// Saves what a called function must keep, exchanges the stack pointers, and restores.
extern "C" void convoke_fiber_switch(void** save, void* load);
asm(R"(
  .text
  .globl convoke_fiber_switch
  .type convoke_fiber_switch, @function
convoke_fiber_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
  .size convoke_fiber_switch, .-convoke_fiber_switch
)");
#endif

struct Fiber::State {
  void (*entry)(void*) = nullptr;
  void* argument = nullptr;
  std::byte* mapping = nullptr;
  size_t mapping_bytes = 0;
  // What the sanitizers want to know of a stack; of the thread's own one it is learnt on the way.
  const void* stack_bottom = nullptr;
  size_t stack_bytes = 0;
  void* fake_stack = nullptr;
  void* tsan_fiber = nullptr;
  State* came_from = nullptr;
#if defined(__x86_64__)
  void* stack_pointer = nullptr;
#else
  ucontext_t context;
#endif
};

namespace {

thread_local void* starting = nullptr;  ///< the state whose entry begins with the next switch

}  // namespace

/// First thing on a stack after a switch to it.
void Fiber::enter(State* state) {
#if defined(__SANITIZE_ADDRESS__)
  State* const from = state->came_from;
  __sanitizer_finish_switch_fiber(state->fake_stack, &from->stack_bottom, &from->stack_bytes);
#else
  (void)state;
#endif
}

void Fiber::entry_point(unsigned, unsigned) {
  State* const state = static_cast<State*>(starting);
  enter(state);
  state->entry(state->argument);
  std::fputs("cuda emulation: a fiber's entry returned\n", stderr);
  std::abort();
}

Fiber::Fiber() : state_(std::make_unique<State>()) {
#if defined(__SANITIZE_THREAD__)
  state_->tsan_fiber = __tsan_get_current_fiber();
#endif
}

Fiber::Fiber(void (*entry)(void*), void* argument) : state_(std::make_unique<State>()) {
  State& state = *state_;
  state.entry = entry;
  state.argument = argument;
  const size_t page = size_t(sysconf(_SC_PAGESIZE));
  state.mapping_bytes = kStackBytes + page;
  void* const memory = mmap(nullptr, state.mapping_bytes, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED || mprotect(memory, page, PROT_NONE) != 0) {
    std::perror("cuda emulation: no memory for a fiber's stack");
    std::abort();
  }
  state.mapping = static_cast<std::byte*>(memory);
  state.stack_bottom = state.mapping + page;
  state.stack_bytes = kStackBytes;
#if defined(__SANITIZE_THREAD__)
  state.tsan_fiber = __tsan_create_fiber(0);
#endif
#if defined(__x86_64__)
  // As convoke_fiber_switch would have left it: six registers, then where to return to; after the
  // return the stack is aligned as at the entry of a called function.
  auto* top = reinterpret_cast<void**>(state.mapping + state.mapping_bytes);
  *--top = nullptr;
  *--top = reinterpret_cast<void*>(&Fiber::entry_point);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  state.stack_pointer = top;
#else
  getcontext(&state.context);
  state.context.uc_stack.ss_sp = const_cast<void*>(state.stack_bottom);
  state.context.uc_stack.ss_size = state.stack_bytes;
  state.context.uc_link = nullptr;
  makecontext(&state.context, reinterpret_cast<void (*)()>(&Fiber::entry_point), 2, 0u, 0u);
#endif
}

Fiber::~Fiber() {
#if defined(__SANITIZE_THREAD__)
  if (state_->mapping != nullptr) __tsan_destroy_fiber(state_->tsan_fiber);
#endif
  if (state_->mapping != nullptr) munmap(state_->mapping, state_->mapping_bytes);
}

void Fiber::switch_to(Fiber& from, Fiber& to) {
  State* const a = from.state_.get();
  State* const b = to.state_.get();
  b->came_from = a;
  starting = b;
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_start_switch_fiber(&a->fake_stack, b->stack_bottom, b->stack_bytes);
#endif
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(b->tsan_fiber, 0);
#endif
#if defined(__x86_64__)
  convoke_fiber_switch(&a->stack_pointer, b->stack_pointer);
#else
  swapcontext(&a->context, &b->context);
#endif
  enter(a);
}

}  // namespace convoke::emulation
