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
class Machine;

struct Warp {
  std::vector<WarpOperation> operations;  ///< not complete yet, of disjoint masks
  uint32_t live = 0;
};

struct Thread {
  std::unique_ptr<Fiber> fiber;
  Machine* machine = nullptr;  ///< whose grid it is in
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

/// What all grids have in common.
struct Common {
  Schedule schedule = Schedule::kInOrder;
  std::mt19937_64 random{0};
  Counters counters;
  std::vector<std::unique_ptr<Thread>> idle;  ///< kept from launch to launch
};

Common& common() {
  static Common common;
  return common;
}

/// One grid at a time.
class Machine {
 public:
  void run(const Shape& shape, void (*body)(void*), void* argument);
  /// A grid whose blocks run together, as far as it comes without others; goes on with it. Whether
  /// it has ended.
  bool begin_resident(const Shape& shape, void (*body)(void*), void* argument);
  bool go_on();
  void pause(Place place);
  void wait(const char* kind, Place place);
  void arrive(Barrier& barrier, Place place);
  void meet(const char* kind, Place place, uint32_t mask, void* operand,
            void (*complete)(void* const*, uint32_t));

  Thread* running = nullptr;
  std::vector<Block> blocks;  ///< of the cluster that runs
  Barrier cluster{"the cluster's barrier"};
  static Machine* current;

 private:
  static void thread_main(void* thread);
  void check(const Shape& shape) const;
  static bool reversed() {
    const Schedule schedule = common().schedule;
    return schedule == Schedule::kReversed || schedule == Schedule::kAheadReversed;
  }
  static bool random_order() { return common().schedule == Schedule::kRandom; }
  /// Blocks that run together, to the end or until all that are left wait for others.
  void start_blocks(const Shape& shape, unsigned count, dim3 first);
  void go();
  void start(Thread& thread, const Shape& shape, Block& block, unsigned rank, unsigned index,
             dim3 place);
  void finish(Thread& thread);
  void release(std::vector<Thread*>& threads);
  void release_if_complete(Barrier& barrier);
  void switch_to_next();
  Thread* next();
  [[noreturn]] void report_deadlock() const;

  std::vector<std::unique_ptr<Thread>> threads_;  ///< of the blocks that run
  std::deque<Thread*> ready_;
  std::vector<Thread*> paused_;  ///< until others have done something
  bool resident_ = false;
  int live_ = 0;
  Fiber home_;
  void (*body_)(void*) = nullptr;
  void* argument_ = nullptr;
};

Machine* Machine::current = nullptr;

Machine& machine() {
  return *Machine::current;
}

void Machine::check(const Shape& shape) const {
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  if (threads == 0 || threads > 1024) fail("a block of %u threads", threads);
  if (shape.grid.x == 0 || shape.grid.y == 0 || shape.grid.z == 0) fail("an empty grid");
  if (shape.grid.y > 65535 || shape.grid.z > 65535) fail("a grid of more than 65535 along y or z");
  if (shape.shared_bytes > kMostShared) fail("%zu bytes of shared memory", shape.shared_bytes);
  if (shape.resident && (shape.cluster != 1 || shape.grid.y != 1 || shape.grid.z != 1)) {
    fail("a grid that runs together has one dimension and no clusters");
  }
  if (shape.cluster == 0 || shape.cluster > 8) fail("a cluster of %u blocks", shape.cluster);
  if (shape.grid.x % shape.cluster != 0) {
    fail("clusters of %u blocks do not divide a grid of %u", shape.cluster, shape.grid.x);
  }
}

void Machine::run(const Shape& shape, void (*body)(void*), void* argument) {
  check(shape);
  ++common().counters.launches;
  body_ = body;
  argument_ = argument;
  const unsigned clusters_x = shape.grid.x / shape.cluster;
  std::vector<unsigned> order(size_t(clusters_x) * shape.grid.y * shape.grid.z);
  for (size_t i = 0; i < order.size(); ++i) order[i] = unsigned(i);
  if (reversed()) std::reverse(order.begin(), order.end());
  if (random_order()) std::shuffle(order.begin(), order.end(), common().random);
  for (const unsigned i : order) {
    const unsigned rest = i / clusters_x;
    start_blocks(shape, shape.cluster,
                 {i % clusters_x * shape.cluster, rest % shape.grid.y, rest / shape.grid.y});
    go();
  }
}

bool Machine::begin_resident(const Shape& shape, void (*body)(void*), void* argument) {
  check(shape);
  ++common().counters.launches;
  body_ = body;
  argument_ = argument;
  resident_ = true;
  start_blocks(shape, shape.grid.x, {0, 0, 0});
  go();
  return live_ == 0;
}

bool Machine::go_on() {
  release(paused_);
  go();
  return live_ == 0;
}

void Machine::start_blocks(const Shape& shape, unsigned count, dim3 first) {
  const unsigned threads = shape.block.x * shape.block.y * shape.block.z;
  common().counters.blocks += count;
  blocks.clear();
  blocks.resize(count);
  ready_.clear();
  cluster.waiting.clear();
  cluster.live = live_ = int(threads * count);
  std::vector<Thread*> all;
  auto& idle = common().idle;
  for (unsigned rank = 0; rank < count; ++rank) {
    Block& block = blocks[rank];
    block.warps.resize((threads + kWarp - 1) / kWarp);
    block.shared.emplace_back(nullptr, shape.shared_bytes);
    block.live = block.barrier.live = int(threads);
    for (unsigned i = 0; i < threads; ++i) {
      if (idle.empty()) {
        idle.push_back(std::make_unique<Thread>());
        idle.back()->fiber = std::make_unique<Fiber>(&thread_main, idle.back().get());
      }
      Thread& thread = *threads_.emplace_back(std::move(idle.back()));
      idle.pop_back();
      start(thread, shape, block, rank, i, {first.x + rank, first.y, first.z});
      all.push_back(&thread);
    }
  }
  release(all);
}

void Machine::go() {
  current = this;
  running = next();
  Fiber::switch_to(home_, *running->fiber);
  running = nullptr;
  current = nullptr;
  if (live_ > 0) return;
  for (auto& thread : threads_) common().idle.push_back(std::move(thread));
  threads_.clear();
}

void Machine::start(Thread& thread, const Shape& shape, Block& block, unsigned rank, unsigned index,
                    dim3 place) {
  const dim3 size = shape.block;
  thread.indices = {{index % size.x, index / size.x % size.y, index / (size.x * size.y)},
                    place,
                    size,
                    shape.grid,
                    resident_ ? 0 : rank,
                    shape.cluster,
                    index % kWarp};
  thread.machine = this;
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
  while (true) {
    thread.machine->body_(thread.machine->argument_);
    thread.machine->finish(thread);
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
  if (random_order()) std::shuffle(threads.begin(), threads.end(), common().random);
  for (Thread* thread : threads) thread->waits_at = nullptr;
  const Schedule schedule = common().schedule;
  const bool ahead = schedule == Schedule::kAhead || schedule == Schedule::kAheadReversed;
  ready_.insert(ahead ? ready_.begin() : ready_.end(), threads.begin(), threads.end());
  threads.clear();
}

void Machine::release_if_complete(Barrier& barrier) {
  if (barrier.waiting.empty() || int(barrier.waiting.size()) < barrier.live) return;
  ++common().counters.barriers;
  std::sort(barrier.waiting.begin(), barrier.waiting.end(), [](const Thread* a, const Thread* b) {
    const Indices &i = a->indices, &j = b->indices;
    return std::tuple(i.cluster_rank, i.thread.z, i.thread.y, i.thread.x) <
           std::tuple(j.cluster_rank, j.thread.z, j.thread.y, j.thread.x);
  });
  release(barrier.waiting);
}

Thread* Machine::next() {
  if (ready_.empty()) return nullptr;
  if (random_order()) std::swap(ready_.front(), ready_[common().random() % ready_.size()]);
  Thread* const thread = ready_.front();
  ready_.pop_front();
  return thread;
}

/// Leaves the running thread; returns when it runs again.
void Machine::switch_to_next() {
  Thread* const from = running;
  Thread* const to = next();
  if (to == from) return;
  if (to == nullptr && live_ > 0 && paused_.empty()) report_deadlock();
  running = to;
  Fiber::switch_to(*from->fiber, to == nullptr ? home_ : *to->fiber);
}

void Machine::wait(const char* kind, Place place) {
  running->waits_at = kind;
  running->place = place;
}

void Machine::pause(Place place) {
  if (!resident_) {
    fail("a thread waits at %s:%u for others, but its grid does not run together",
         place.file_name(), place.line());
  }
  wait("what others do", place);
  paused_.push_back(running);
  switch_to_next();
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
    ++common().counters.warp_operations;
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
  for (const auto& one : threads_) {
    const Thread& thread = *one;
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
  common().schedule = schedule;
  common().random.seed(seed);
}

Counters& counters() {
  return common().counters;
}

void run_grid(const Shape& shape, void (*body)(void*), void* argument) {
  static Machine machine;
  if (Machine::current != nullptr) fail("a kernel launches a kernel");
  machine.run(shape, body, argument);
}

class ResidentGrid {
 public:
  ResidentGrid(const Shape& shape, std::function<void()> body)
      : shape_(shape), body_(std::move(body)) {}
  bool advance() {
    if (std::exchange(begun_, true)) return machine_.go_on();
    return machine_.begin_resident(
        shape_, [](void* body) { (*static_cast<std::function<void()>*>(body))(); }, &body_);
  }

 private:
  Shape shape_;
  std::function<void()> body_;
  Machine machine_;
  bool begun_ = false;
};

std::shared_ptr<ResidentGrid> make_resident(const Shape& shape, std::function<void()> body) {
  return std::make_shared<ResidentGrid>(shape, std::move(body));
}

bool advance(ResidentGrid& grid) {
  return grid.advance();
}

void pause(Place place) {
  machine().pause(place);
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
