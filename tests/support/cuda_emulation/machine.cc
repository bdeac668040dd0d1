// Grids, clusters, blocks and warps of fibers: who runs next, who waits for whom.
#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "tests/support/cuda_emulation/emulation.h"
#include "tests/support/cuda_emulation/fiber.h"

namespace convoke::emulation {
namespace {

constexpr size_t kMostStaticShared = 48 * 1024;
constexpr size_t kMostShared = 227 * 1024;  // of sm_90
constexpr unsigned kWarp = 32;

[[noreturn]] __attribute__((format(printf, 1, 2))) void fail(const char* format, ...) {
  std::fflush(stdout);
  std::fputs("cuda emulation: ", stderr);
  va_list arguments;
  va_start(arguments, format);
  std::vfprintf(stderr, format, arguments);
  va_end(arguments);
  std::fputc('\n', stderr);
  std::abort();
}

bool same(Place a, Place b) {
  return a.line() == b.line() && std::strcmp(a.file_name(), b.file_name()) == 0;
}

/// Memory of exactly `bytes` bytes, so that the address sanitizer knows its end.
struct SharedPiece {
  SharedPiece(const void* piece_site, size_t piece_bytes) : site(piece_site), bytes(piece_bytes) {
    void* memory = nullptr;
    if (posix_memalign(&memory, 128, std::max<size_t>(bytes, 1)) != 0) {
      fail("no memory for %zu bytes of shared memory", bytes);
    }
    data = static_cast<std::byte*>(memory);
    poison();
  }
  SharedPiece(SharedPiece&& other) noexcept
      : site(other.site), bytes(other.bytes), data(std::exchange(other.data, nullptr)) {}
  ~SharedPiece() { std::free(data); }
  void poison() { std::memset(data, 0xff, bytes); }
  const void* site;
  size_t bytes;
  std::byte* data;
};

struct AsyncCopy {
  void* target;
  const void* source;
  int bytes;
  int group;
};

struct Thread;

/// Threads that wait for the rest of a block or cluster.
struct Barrier {
  const char* kind;
  int live = 0;
  Place place{};
  std::vector<Thread*> waiting;
};

struct WarpOperation {
  const char* kind;
  Place place;
  uint32_t mask;
  uint32_t arrived = 0;
  void* operands[kWarp] = {};
  Thread* threads[kWarp] = {};
};

struct Block;

struct Warp {
  std::vector<WarpOperation> operations;  ///< not complete yet, of disjoint masks
  uint32_t live = 0;
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  Indices indices{};
  Block* block = nullptr;
  Warp* warp = nullptr;
  bool done = false;
  const char* waits_at = nullptr;  ///< null while it can run
  Place place{};
  std::deque<AsyncCopy> copies;
  int open_group = 0;
};

struct Block {
  Barrier barrier{"__syncthreads"};
  std::vector<Warp> warps;
  std::vector<SharedPiece> shared;  ///< the dynamic memory first
  int live = 0;
};

class Machine {
 public:
  void run(const Shape& shape, void (*body)(void*), void* argument);
  void wait(const char* kind, Place place);
  void arrive(Barrier& barrier, Place place);
  void meet(const char* kind, Place place, uint32_t mask, void* operand,
            void (*complete)(void* const*, uint32_t));

  Schedule schedule = Schedule::kInOrder;
  std::mt19937_64 random{0};
  Thread* running = nullptr;
  std::vector<Block> blocks;  ///< of the cluster that runs
  Barrier cluster{"the cluster's barrier"};
  Counters counters;

 private:
  static void thread_main(void* thread);
  void check(const Shape& shape) const;
  bool reversed() const {
    return schedule == Schedule::kReversed || schedule == Schedule::kAheadReversed;
  }
  void run_cluster(const Shape& shape, unsigned first_x, unsigned y, unsigned z);
  void start(Thread& thread, const Shape& shape, Block& block, unsigned rank, unsigned index,
             dim3 place);
  void finish(Thread& thread);
  void release(std::vector<Thread*>& threads);
  void release_if_complete(Barrier& barrier);
  void switch_to_next();
  Thread* next();
  [[noreturn]] void report_deadlock() const;

  std::vector<std::unique_ptr<Thread>> threads_;  ///< kept from launch to launch
  size_t used_ = 0;                               ///< of threads_, in the cluster that runs
  std::deque<Thread*> ready_;
  int live_ = 0;
  Fiber home_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
};

Machine& machine() {
  static Machine machine;
  return machine;
}

void Machine::check(const Shape& shape) const {
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  if (running != nullptr) fail("a kernel launches a kernel");
  if (threads == 0 || threads > 1024) fail("a block of %u threads", threads);
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) fail("an empty grid");
  if (shape.grid.y > 65535 || shape.grid.z > 65535) fail("a grid of more than 65535 along y or z");
  if (shape.shared_bytes > kMostShared) fail("%zu bytes of shared memory", shape.shared_bytes);
  if (shape.cluster == 0 || shape.cluster > 8) fail("a cluster of %u blocks", shape.cluster);
  if (shape.grid.x % shape.cluster != 0) {
    fail("clusters of %u blocks do not divide a grid of %u", shape.cluster, shape.grid.x);
  }
}

void Machine::run(const Shape& shape, void (*body)(void*), void* argument) {
  check(shape);
  ++counters.launches;
  body_ = body;
  argument_ = argument;
  const unsigned clusters_x = shape.grid.x / shape.cluster;
  std::vector<unsigned> order(size_t(clusters_x) * shape.grid.y * shape.grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = unsigned(i);
  if (reversed()) std::reverse(order.begin(), order.end());
  if (schedule == Schedule::kRandom) std::shuffle(order.begin(), order.end(), random);
  for (const unsigned i : order) {
    const unsigned rest = i / clusters_x;
    run_cluster(shape, i % clusters_x * shape.cluster, rest % shape.grid.y, rest / shape.grid.y);
  }
}

void Machine::run_cluster(const Shape& shape, unsigned first_x, unsigned y, unsigned z) {
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  counters.blocks += shape.cluster;
  blocks.clear();
  blocks.resize(shape.cluster);
  used_ = 0;
  ready_.clear();
  cluster.waiting.clear();
  cluster.live = live_ = int(threads * shape.cluster);
  std::vector<Thread*> all;
  for (unsigned rank = 0; rank < shape.cluster; ++rank) {
    Block& block = blocks[rank];
    block.warps.resize((threads + kWarp - 1) / kWarp);
    block.shared.emplace_back(nullptr, shape.shared_bytes);
    block.live = block.barrier.live = int(threads);
    for (unsigned i = 0; i < threads; ++i) {
      if (used_ == threads_.size()) {
        threads_.push_back(std::make_unique<Thread>());
        threads_.back()->fiber = std::make_unique<Fiber>(&thread_main, threads_.back().get());
      }
      Thread& thread = *threads_[used_++];
      start(thread, shape, block, rank, i, {first_x + rank, y, z});
      all.push_back(&thread);
    }
  }
  release(all);
  Thread* const first = next();
  running = first;
  Fiber::switch_to(home_, *first->fiber);
  running = nullptr;
}

void Machine::start(Thread& thread, const Shape& shape, Block& block, unsigned rank, unsigned index,
                    dim3 place) {
  const dim3 size = shape.block;
  thread.indices = {{index % size.x, index / size.x % size.y, index / (size.x * size.y)},
                    place,
                    size,
                    shape.grid,
                    rank,
                    shape.cluster,
                    index % kWarp};
  thread.block = &block;
  thread.warp = &block.warps[index / kWarp];
  thread.warp->live |= 1u << thread.indices.lane;
  thread.done = false;
  thread.waits_at = nullptr;
  thread.open_group = 0;
}

/// A fiber serves one thread after another.
void Machine::thread_main(void* argument) {
  Thread& thread = *static_cast<Thread*>(argument);
  Machine& all = machine();
  while (true) {
    all.body_(all.argument_);
    all.finish(thread);
  }
}

void Machine::finish(Thread& thread) {
  if (!thread.copies.empty()) {
    fail("thread %u of block %u ends and never waited for its asynchronous copies",
         thread.indices.thread.x, thread.indices.block.x);
  }
  thread.done = true;
  thread.warp->live &= ~(1u << thread.indices.lane);
  --live_;
  --cluster.live;
  Block& block = *thread.block;
  --block.barrier.live;
  // What another block of the cluster reads from now on is not to be relied on.
  if (--block.live == 0) {
    for (SharedPiece& piece : block.shared) piece.poison();
  }
  release_if_complete(block.barrier);
  release_if_complete(cluster);
  switch_to_next();
}

/// Makes waiting threads ready, in the order of the schedule.
void Machine::release(std::vector<Thread*>& threads) {
  if (reversed()) std::reverse(threads.begin(), threads.end());
  if (schedule == Schedule::kRandom) std::shuffle(threads.begin(), threads.end(), random);
  for (Thread* thread : threads) thread->waits_at = nullptr;
  const bool ahead = schedule == Schedule::kAhead || schedule == Schedule::kAheadReversed;
  ready_.insert(ahead ? ready_.begin() : ready_.end(), threads.begin(), threads.end());
  threads.clear();
}

void Machine::release_if_complete(Barrier& barrier) {
  if (barrier.waiting.empty() || int(barrier.waiting.size()) < barrier.live) return;
  ++counters.barriers;
  std::sort(barrier.waiting.begin(), barrier.waiting.end(), [](const Thread* a, const Thread* b) {
    const Indices &i = a->indices, &j = b->indices;
    return std::tuple(i.cluster_rank, i.thread.z, i.thread.y, i.thread.x) <
           std::tuple(j.cluster_rank, j.thread.z, j.thread.y, j.thread.x);
  });
  release(barrier.waiting);
}

Thread* Machine::next() {
  if (ready_.empty()) return nullptr;
  if (schedule == Schedule::kRandom) std::swap(ready_.front(), ready_[random() % ready_.size()]);
  Thread* const thread = ready_.front();
  ready_.pop_front();
  return thread;
}

/// Leaves the running thread; returns when it runs again.
void Machine::switch_to_next() {
  Thread* const from = running;
  Thread* const to = next();
  if (to == from) return;
  if (to == nullptr && live_ > 0) report_deadlock();
  running = to;
  Fiber::switch_to(*from->fiber, to == nullptr ? home_ : *to->fiber);
}

void Machine::wait(const char* kind, Place place) {
  running->waits_at = kind;
  running->place = place;
}

void Machine::arrive(Barrier& barrier, Place place) {
  wait(barrier.kind, place);
  if (barrier.waiting.empty()) {
    barrier.place = place;
  } else if (!same(barrier.place, place)) {
    const Thread& other = *barrier.waiting.front();
    fail(
        "divergent barrier: thread %u of block %u waits for %s at %s:%u, thread %u of block %u at "
        "%s:%u",
        other.indices.thread.x, other.indices.block.x, barrier.kind, barrier.place.file_name(),
        barrier.place.line(), running->indices.thread.x, running->indices.block.x,
        place.file_name(), place.line());
  }
  barrier.waiting.push_back(running);
  release_if_complete(barrier);
  switch_to_next();
}

void Machine::meet(const char* kind, Place place, uint32_t mask, void* operand,
                   void (*complete)(void* const*, uint32_t)) {
  Thread& thread = *running;
  const unsigned lane = thread.indices.lane;
  if ((mask >> lane & 1) == 0) {
    fail("%s at %s:%u: lane %u is not in its own mask %08x", kind, place.file_name(), place.line(),
         lane, mask);
  }
  auto& pending = thread.warp->operations;
  // Lanes of another mask may be on their way here; if they are not, nobody will be able to run.
  auto at = std::find_if(pending.begin(), pending.end(),
                         [&](const WarpOperation& other) { return other.mask == mask; });
  if (at == pending.end()) {
    pending.push_back({kind, place, mask});
    at = pending.end() - 1;
  } else if (std::strcmp(at->kind, kind) != 0 || !same(at->place, place)) {
    fail(
        "lanes of a warp disagree: with mask %08x some wait for %s at %s:%u, lane %u comes to %s "
        "at "
        "%s:%u",
        mask, at->kind, at->place.file_name(), at->place.line(), lane, kind, place.file_name(),
        place.line());
  }
  at->arrived |= 1u << lane;
  at->operands[lane] = operand;
  at->threads[lane] = &thread;
  wait(kind, place);
  if (at->arrived == mask) {
    ++counters.warp_operations;
    complete(at->operands, mask);
    std::vector<Thread*> lanes;
    for (Thread* other : at->threads) {
      if (other != nullptr) lanes.push_back(other);
    }
    pending.erase(at);
    release(lanes);
  }
  switch_to_next();
}

void Machine::report_deadlock() const {
  std::string report;
  std::vector<const Thread*> seen;
  for (size_t i = 0; i < used_; ++i) {
    const Thread& thread = *threads_[i];
    if (thread.done) continue;
    const bool known = std::any_of(seen.begin(), seen.end(), [&](const Thread* other) {
      return std::strcmp(other->waits_at, thread.waits_at) == 0 && same(other->place, thread.place);
    });
    if (known) continue;
    seen.push_back(&thread);
    char line[512];
    std::snprintf(line, sizeof line, "\n  thread %u of block %u, and maybe more: %s at %s:%u",
                  thread.indices.thread.x, thread.indices.block.x, thread.waits_at,
                  thread.place.file_name(), thread.place.line());
    report += line;
  }
  fail("deadlock: %d threads wait for each other, or for threads that have ended%s", live_,
       report.c_str());
}

SharedPiece& piece_of(const void* pointer) {
  for (SharedPiece& piece : machine().running->block->shared) {
    const auto* const at = static_cast<const std::byte*>(pointer);
    if (at >= piece.data && at < piece.data + piece.bytes) return piece;
  }
  fail("%p is not in the shared memory of this block", pointer);
}

}  // namespace

void set_schedule(Schedule schedule, uint64_t seed) {
  machine().schedule = schedule;
  machine().random.seed(seed);
}

Counters& counters() {
  return machine().counters;
}

void run_grid(const Shape& shape, void (*body)(void*), void* argument) {
  machine().run(shape, body, argument);
}

const Indices& indices() {
  return machine().running->indices;
}

void block_barrier(Place place) {
  machine().arrive(machine().running->block->barrier, place);
}

void cluster_barrier(Place place) {
  machine().arrive(machine().cluster, place);
}

void warp_operation(const char* kind, Place place, uint32_t mask, void* operand,
                    void (*complete)(void* const*, uint32_t)) {
  machine().meet(kind, place, mask, operand, complete);
}

void* static_shared(const void* site, size_t bytes) {
  // Made for all blocks of the cluster at once: one may look into another's before that has begun.
  size_t all = 0;
  for (SharedPiece& piece : machine().running->block->shared) {
    if (piece.site == site) return piece.data;
    if (piece.site != nullptr) all += piece.bytes;
  }
  if (all + bytes > kMostStaticShared) fail("%zu bytes of static shared memory", all + bytes);
  for (Block& block : machine().blocks) block.shared.emplace_back(site, bytes);
  return machine().running->block->shared.back().data;
}

void* dynamic_shared() {
  return machine().running->block->shared.front().data;
}

void* remote_shared(void* pointer, unsigned rank) {
  Machine& all = machine();
  if (rank >= all.blocks.size()) fail("block %u of a cluster of %zu", rank, all.blocks.size());
  const SharedPiece& piece = piece_of(pointer);
  const size_t index = size_t(&piece - all.running->block->shared.data());
  return all.blocks[rank].shared[index].data + (static_cast<std::byte*>(pointer) - piece.data);
}

void async_copy(void* target, const void* source, int bytes) {
  if (bytes < 0 || bytes > 16) fail("an asynchronous copy of %d bytes", bytes);
  if (reinterpret_cast<uintptr_t>(target) % 16 != 0) fail("an asynchronous copy to %p", target);
  if (bytes > 0 && reinterpret_cast<uintptr_t>(source) % 16 != 0) {
    fail("an asynchronous copy from %p, which is not aligned", source);
  }
  piece_of(target);
  std::memset(target, 0xff, 16);  // what the target held is not to be relied on either
  Thread& thread = *machine().running;
  thread.copies.push_back({target, source, bytes, thread.open_group});
}

void async_commit() {
  ++machine().running->open_group;
}

void async_wait(int pending) {
  Thread& thread = *machine().running;
  while (!thread.copies.empty() && thread.copies.front().group < thread.open_group - pending) {
    const AsyncCopy& copy = thread.copies.front();
    std::memset(copy.target, 0, 16);
    if (copy.bytes > 0) std::memcpy(copy.target, copy.source, size_t(copy.bytes));
    thread.copies.pop_front();
  }
}

}  // namespace convoke::emulation
