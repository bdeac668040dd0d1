// A team of threads for tests of code that runs inside programs: std::thread and std::barrier, no
// CPU backend needed.
#pragma once

#include <barrier>
#include <exception>
#include <functional>
#include <thread>
#include <vector>

#include "kernels/cpu/cpu_backend.h"

namespace convoke::test {

class FakeStream final : public cpu::CpuStream {
 public:
  FakeStream(int index, int count, std::barrier<>& barrier)
      : index_(index), count_(count), barrier_(barrier) {}
  int index() const override { return index_; }
  int count() const override { return count_; }
  void barrier() override { barrier_.arrive_and_wait(); }

 private:
  int index_;
  int count_;
  std::barrier<>& barrier_;
};

/// Runs `program` on `threads` threads at once; element i is what thread i threw, or null.
inline std::vector<std::exception_ptr> run_team(int threads,
                                                const std::function<void(FakeStream&)>& program) {
  std::barrier<> barrier(threads);
  std::vector<std::exception_ptr> thrown(static_cast<size_t>(threads));
  const auto one = [&](int index) {
    FakeStream stream(index, threads, barrier);
    try {
      program(stream);
    } catch (...) {
      thrown[size_t(index)] = std::current_exception();
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(one, i);
  one(0);
  for (std::thread& thread : others) thread.join();
  return thrown;
}

}  // namespace convoke::test
