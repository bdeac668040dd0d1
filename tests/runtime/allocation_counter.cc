#include "tests/runtime/allocation_counter.h"

#include <cstdlib>
#include <new>

std::atomic<int64_t> allocations{0};

// Not inlined: GCC would see free() of what it takes for a plain new.
[[gnu::noinline]] void* operator new(size_t bytes) {
  allocations.fetch_add(1);
  if (void* memory = std::malloc(bytes == 0 ? 1 : bytes)) return memory;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* memory) noexcept {
  std::free(memory);
}
[[gnu::noinline]] void operator delete(void* memory, size_t) noexcept {
  std::free(memory);
}
