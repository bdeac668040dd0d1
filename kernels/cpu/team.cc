#include "kernels/cpu/team.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>

#include <atomic>
#include <chrono>
#include <exception>
#include <mutex>
#include <optional>
#include <thread>
#include <utility>
#include <vector>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "kernels/check.h"

namespace convoke::cpu {
namespace {

/// Keeps what different threads write off each other's cache lines (two: processors fetch pairs).
constexpr size_t kLine = 128;

void relax() {
#if defined(__x86_64__)
  _mm_pause();
#elif defined(__aarch64__)
  __asm__ volatile("yield");
#endif
}

/// Threads of all teams of this process that are inside a program now. More than there are
/// processors: whoever waits must leave the processor to whom it waits for.
std::atomic<int> busy_threads{0};

int processors() {
  static const int count = [] {
    cpu_set_t set;
    if (sched_getaffinity(0, sizeof(set), &set) == 0) return CPU_COUNT(&set);
    return std::max(1, int(std::thread::hardware_concurrency()));
  }();
  return count;
}

/// How long a waiting thread stays awake. Spinning is cheapest to leave; yielding lets others run.
struct Patience {
  int spins;
  std::chrono::microseconds awake;
};

Patience patience() {
  if (busy_threads.load(std::memory_order_relaxed) > processors()) {
    return {20, std::chrono::microseconds(50)};
  }
  return {2000, std::chrono::microseconds(2000)};
}

constexpr std::chrono::microseconds kIdle{50};

/// A number that threads wait on until it changes.
class alignas(kLine) WaitableNumber {
 public:
  uint32_t get() const { return value_.load(std::memory_order_acquire); }

  void advance() {
    value_.fetch_add(1, std::memory_order_seq_cst);
    if (parked_.load(std::memory_order_seq_cst) != 0) value_.notify_all();
  }

  /// For workers between programs. They stay awake just long enough for a coordinator to make the
  /// next plan: a front end or drafter that is woken meanwhile needs their processor.
  void wait_idle_while(uint32_t old) {
    const auto end = std::chrono::steady_clock::now() + kIdle;
    do {
      for (int i = 0; i < 10; ++i) {
        if (get() != old) return;
        relax();
      }
    } while (std::chrono::steady_clock::now() < end);
    park_while(old);
  }

  void wait_while(uint32_t old) {
    const Patience limit = patience();
    for (int i = 0; i < limit.spins; ++i) {
      if (get() != old) return;
      relax();
    }
    const auto end = std::chrono::steady_clock::now() + limit.awake;
    while (std::chrono::steady_clock::now() < end) {
      if (get() != old) return;
      sched_yield();
    }
    park_while(old);
  }

 private:
  void park_while(uint32_t old) {
    // Announced before the last look at the value, so that advance() either is seen here or sees
    // the announcement.
    parked_.fetch_add(1, std::memory_order_seq_cst);
    while (value_.load(std::memory_order_seq_cst) == old) {
      value_.wait(old, std::memory_order_seq_cst);
    }
    parked_.fetch_sub(1, std::memory_order_relaxed);
  }

  std::atomic<uint32_t> value_{0};
  std::atomic<uint32_t> parked_{0};
};

/// The team whose program the calling thread is in.
thread_local const void* in_program = nullptr;

/// What a thread leaves a barrier with when another thread of its team threw.
struct ProgramAborted {};

void block_signals() {
  // Signals belong to the threads that the program's own code runs on.
  sigset_t all;
  sigfillset(&all);
  for (int fault : {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGTRAP}) sigdelset(&all, fault);
  pthread_sigmask(SIG_SETMASK, &all, nullptr);
}

/// Binds the calling thread to the next processor that no team of this process has taken yet, round
/// robin over those the process started with.
void pin_this_thread() {
  static const cpu_set_t allowed = [] {
    cpu_set_t set;
    CPU_ZERO(&set);
    sched_getaffinity(0, sizeof(set), &set);
    return set;
  }();
  static std::atomic<int> next{0};
  const int count = CPU_COUNT(&allowed);
  if (count == 0) return;
  int skip = next.fetch_add(1, std::memory_order_relaxed) % count;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (!CPU_ISSET(cpu, &allowed) || skip-- > 0) continue;
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(cpu, &one);
    pthread_setaffinity_np(pthread_self(), sizeof(one), &one);  // a hint: failure is harmless
    return;
  }
}

}  // namespace

struct Team::State {
  class Member final : public CpuStream {
   public:
    Member(State& state, int index) : state_(state), index_(index) {}
    int index() const override { return index_; }
    int count() const override { return state_.threads; }
    void barrier() override { state_.barrier(); }

   private:
    State& state_;
    int index_;
  };

  State(int thread_count, bool pin_threads) : threads(thread_count), pin(pin_threads) {}

  void barrier();
  void execute(int index);
  void abort_program(std::exception_ptr reason);
  void work(int index);

  const int threads;
  const bool pin;
  bool caller_pinned = false;
  std::vector<Member> members;
  std::vector<std::thread> workers;

  // Programs: `started` advances when `program` is there (or `quit` is set), `finished` when the
  // last worker has left it.
  std::optional<FunctionRef<void(CpuStream&)>> program;
  bool quit = false;
  WaitableNumber started;
  WaitableNumber finished;
  alignas(kLine) std::atomic<int> running{0};
  std::mutex turn;  ///< whose program is running

  // The barrier inside a program.
  alignas(kLine) std::atomic<int> arrived{0};
  WaitableNumber passed;

  alignas(kLine) std::atomic<bool> aborted{false};
  std::atomic<bool> reason_taken{false};
  std::exception_ptr reason;
};

void Team::State::barrier() {
  if (threads == 1) return;
  const uint32_t before = passed.get();
  if (aborted.load(std::memory_order_acquire)) throw ProgramAborted{};
  if (arrived.fetch_add(1, std::memory_order_acq_rel) + 1 == threads) {
    arrived.store(0, std::memory_order_relaxed);
    passed.advance();
    return;
  }
  passed.wait_while(before);
  if (aborted.load(std::memory_order_acquire)) throw ProgramAborted{};
}

void Team::State::abort_program(std::exception_ptr what) {
  if (reason_taken.exchange(true, std::memory_order_acq_rel)) return;
  reason = std::move(what);  // read by the caller of run() after everybody has finished
  aborted.store(true, std::memory_order_release);
  passed.advance();  // waiters look again and find the abort
}

void Team::State::execute(int index) {
  const void* const outer = std::exchange(in_program, this);
  try {
    (*program)(members[size_t(index)]);
  } catch (const ProgramAborted&) {
  } catch (...) {
    abort_program(std::current_exception());
  }
  in_program = outer;
}

void Team::State::work(int index) {
  block_signals();
  pthread_setname_np(pthread_self(), ("convoke-" + std::to_string(index)).c_str());
  if (pin) pin_this_thread();
  uint32_t seen = 0;
  while (true) {
    started.wait_idle_while(seen);
    ++seen;
    if (quit) return;
    execute(index);
    if (running.fetch_sub(1, std::memory_order_acq_rel) == 1) finished.advance();
  }
}

Team::Team(int threads, bool pin) : state_(std::make_unique<State>(threads, pin)) {
  CONVOKE_CHECK_GE(threads, 1);
  State& state = *state_;
  state.members.reserve(size_t(threads));
  for (int i = 0; i < threads; ++i) state.members.emplace_back(state, i);
  try {
    for (int i = 1; i < threads; ++i) {
      state.workers.emplace_back([&state, i] { state.work(i); });
    }
  } catch (const std::system_error& error) {
    state.quit = true;
    state.started.advance();
    for (std::thread& worker : state.workers) worker.join();
    throw_error(ErrorKind::kResource, "cannot start {} threads: {}", threads, error.what());
  }
}

Team::~Team() {
  state_->quit = true;
  state_->started.advance();
  for (std::thread& worker : state_->workers) worker.join();
}

int Team::threads() const {
  return state_->threads;
}

void Team::run(FunctionRef<void(CpuStream&)> program) {
  State& state = *state_;
  CONVOKE_CHECK(in_program != &state);
  const std::lock_guard turn(state.turn);
  if (state.pin && !state.caller_pinned) {
    pin_this_thread();
    state.caller_pinned = true;
  }
  busy_threads.fetch_add(state.threads, std::memory_order_relaxed);
  state.program.emplace(program);
  if (state.threads > 1) {
    const uint32_t before = state.finished.get();
    state.running.store(state.threads - 1, std::memory_order_relaxed);
    state.started
        .advance();  // first: its own workers are not to take this program for others' work
    busy_threads.fetch_add(state.threads, std::memory_order_relaxed);
    state.execute(0);
    state.finished.wait_while(before);
  } else {
    state.execute(0);
  }
  busy_threads.fetch_sub(state.threads, std::memory_order_relaxed);

  std::exception_ptr reason;
  if (state.reason_taken.load(std::memory_order_acquire)) {
    reason = std::move(state.reason);
    state.reason = nullptr;
    state.arrived.store(0, std::memory_order_relaxed);
    state.aborted.store(false, std::memory_order_relaxed);
    state.reason_taken.store(false, std::memory_order_relaxed);
  }
  if (reason) std::rethrow_exception(reason);
}

}  // namespace convoke::cpu
