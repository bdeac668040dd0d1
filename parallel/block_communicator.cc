#include "parallel/block_communicator.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "parallel/tree_sum.h"

namespace convoke {
namespace {

// From here on, and with more than two ranks, every rank sums one slice instead of everything: one
// more synchronisation, but less to read.
constexpr int64_t kSliceFrom = 16 * 1024;
constexpr int64_t kFloatsPerLine = 16;
constexpr int64_t kMessageChunk = 64 * 1024;
// Below this, copying is left to the first thread: a team barrier costs more.
constexpr size_t kSmallCopy = 8 * 1024;
// A broadcast's first message between blocks: its length and as much of it as fits.
constexpr size_t kLetterBytes = 32 * 1024;
constexpr size_t kLetterRoom = kLetterBytes - sizeof(uint64_t);

int usable_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof set, &set) != 0) return 1;
  return std::max(1, CPU_COUNT(&set));
}

// Asked before main(), when no thread has pinned itself yet.
const int kUsableCores = usable_cores();

const char* name_of(int operation) {
  static constexpr std::array kNames{"all-reduce", "all-gather", "broadcast", "barrier"};
  return size_t(operation) < kNames.size() ? kNames[size_t(operation)] : "an operation";
}

Range piece(int64_t count, int part, int parts) {
  return piece_of({0, count}, part, parts, kFloatsPerLine);
}

// The part of a copy that falls to one thread of the team.
void copy_piece(cpu::CpuStream& team, std::byte* to, std::span<const std::byte> from) {
  const Range range = piece_of({0, int64_t(from.size())}, team.index(), team.count(), 64);
  if (range.size() > 0)
    std::memcpy(to + range.begin, &from[size_t(range.begin)], size_t(range.size()));
}

}  // namespace

RegionShape BlockSetup::region_shape() const {
  // A rank's gather slot also takes what its counterparts in the other blocks contribute.
  return {block_size, options.reduce_capacity, options.gather_capacity * (size / block_size),
          block_size > 1 ? kMessageChunk : 0};
}

std::shared_ptr<void> allocate_region(const RegionShape& shape) {
  constexpr std::align_val_t kAlign{SharedRegion::kAlignment};
  std::shared_ptr<void> memory(::operator new(SharedRegion::bytes(shape), kAlign),
                               [](void* p) { ::operator delete(p, kAlign); });
  SharedRegion::initialise(memory.get(), shape);
  return memory;
}

BlockCommunicator::BlockCommunicator(BlockSetup setup)
    : setup_(std::move(setup)),
      region_(setup_.region, setup_.region_shape(), setup_.rank % setup_.block_size),
      region_board_(region_),
      watch_(setup_.link ? static_cast<WaitBoard&>(*setup_.link) : region_board_, setup_.rank,
             setup_.size, setup_.options.deadline_seconds) {
  CONVOKE_CHECK_EQ(setup_.size % setup_.block_size, 0);
  CONVOKE_CHECK_EQ(int(setup_.names.size()), setup_.size);
  CONVOKE_CHECK_EQ(setup_.link != nullptr, blocks() > 1);
  if (setup_.link) {
    received_ = std::make_unique<float[]>(size_t(setup_.options.reduce_capacity));
    letter_.resize(kLetterBytes);
  }
}

float* BlockCommunicator::reduce_buffer() {
  return region_.reduce_buffer(place(), reduce_parity_);
}

// --- reductions ---------------------------------------------------------------------------------

void BlockCommunicator::all_reduce_add(Stream& stream, float* target, int64_t count) {
  CONVOKE_CHECK(0 <= count && count <= setup_.options.reduce_capacity);
  Team& team = stream.host();
  const bool slices = setup_.link != nullptr || (setup_.size > 2 && count >= kSliceFrom);
  const bool ok =
      slices ? reduce_in_slices(team, target, count) : reduce_at_once(team, target, count);
  finish(team, ok, Operation::kReduce, slices ? 2 : 1);
}

// Everybody reads everything. One synchronisation is enough, because a rank writes to the buffer of
// the same parity again only after the next one, which all reach after reading this one.
bool BlockCommunicator::reduce_at_once(Team& team, float* target, int64_t count) {
  if (team.index() == 0) region_.post(sequence_ + 1);
  if (!wait_for_block(sequence_ + 1, waiter(team), Operation::kReduce)) return false;
  std::array<const float*, kMaxRanks> sources{};
  for (int r = 0; r < setup_.size; ++r) {
    sources[size_t(r)] = region_.reduce_buffer(r, reduce_parity_);
  }
  add_tree_sum(sources.data(), setup_.size, target, piece(count, team.index(), team.count()));
  return true;
}

// Every rank of the block sums one slice in place, exchanges it with its counterparts in the other
// blocks, and then takes all slices. A slice is written only where no other rank reads it.
bool BlockCommunicator::reduce_in_slices(Team& team, float* target, int64_t count) {
  const int size = setup_.block_size;
  if (team.index() == 0) region_.post(sequence_ + 1);
  bool ok = wait_for_block(sequence_ + 1, waiter(team), Operation::kReduce);
  const Range slice = piece(count, place(), size);
  if (ok) {
    std::array<const float*, kMaxRanks> sources{};
    for (int r = 0; r < size; ++r) {
      sources[size_t(r)] = region_.reduce_buffer(r, reduce_parity_);
    }
    store_tree_sum(sources.data(), size, region_.reduce_buffer(place(), reduce_parity_),
                   piece_of(slice, team.index(), team.count(), kFloatsPerLine));
  }
  team.barrier();
  float* sums = region_.reduce_buffer(place(), reduce_parity_) + slice.begin;
  ok = climb_blocks(team, sums, slice.size(), ok);
  if (team.index() == 0 && ok) region_.post(sequence_ + 2);
  ok = ok && wait_for_block(sequence_ + 2, waiter(team), Operation::kReduce);
  if (!ok) return false;
  const Range mine = piece(count, team.index(), team.count());
  for (int r = 0; r < size; ++r) {
    const Range part = piece(count, r, size);
    const float* source = region_.reduce_buffer(r, reduce_parity_);
    add_tree_sum(&source, 1, target,
                 {std::max(mine.begin, part.begin), std::min(mine.end, part.end)});
  }
  return true;
}

// Recursive doubling over the blocks: at each level two blocks swap their sums and both add them,
// the lower block's first.
bool BlockCommunicator::climb_blocks(Team& team, float* slice, int64_t count, bool ok) {
  for (int level = 1; level < blocks(); level *= 2) {
    if (team.index() == 0 && ok && count > 0) {
      const int peer = (block() ^ level) * setup_.block_size + place();
      const size_t bytes = size_t(count) * sizeof(float);
      const Transfer transfer{peer, slice, bytes, received_.get(), bytes};
      // The others of the team learn of a failure by the flag, after the barrier.
      if (!run_transfers({&transfer, 1}, Operation::kReduce)) thread_failed_ = true;
    }
    team.barrier();
    ok = ok && !thread_failed_.load(std::memory_order_relaxed);
    if (ok) {
      const float* sources[2] = {slice, received_.get()};
      if ((block() & level) != 0) std::swap(sources[0], sources[1]);
      store_tree_sum(sources, 2, slice, piece(count, team.index(), team.count()));
    }
    team.barrier();
  }
  return ok;
}

// --- gathering ----------------------------------------------------------------------------------

void BlockCommunicator::all_gather(Stream& stream, std::span<const std::byte> mine,
                                   std::span<std::byte> all) {
  CONVOKE_CHECK(int64_t(mine.size()) <= setup_.options.gather_capacity);
  CONVOKE_CHECK_EQ(all.size(), mine.size() * size_t(setup_.size));
  Team& team = stream.host();
  if (setup_.size == 1) {
    copy_piece(team, all.data(), mine);
    return finish(team, !region_.broken(), Operation::kGather, 0);
  }
  std::byte* slot = region_.gather_buffer(place(), gather_parity_);
  std::byte* own = slot + mine.size() * size_t(block());
  if (mine.size() > kSmallCopy) {
    copy_piece(team, own, mine);
    team.barrier();
  } else if (team.index() == 0 && !mine.empty()) {
    std::memcpy(own, mine.data(), mine.size());
  }
  if (team.index() == 0 && gather_from_blocks(mine, slot)) region_.post(sequence_ + 1);
  const bool ok = wait_for_block(sequence_ + 1, waiter(team), Operation::kGather) &&
                  wait_for(place(), sequence_ + 1, waiter(team), Operation::kGather);
  for (int r = 0; ok && r < setup_.size; ++r) {
    const std::byte* from = region_.gather_buffer(r % setup_.block_size, gather_parity_) +
                            mine.size() * size_t(r / setup_.block_size);
    copy_piece(team, all.data() + mine.size() * size_t(r), {from, mine.size()});
  }
  finish(team, ok, Operation::kGather, 1);
}

// The contributions of the ranks at our place in the other blocks, straight into the slot.
bool BlockCommunicator::gather_from_blocks(std::span<const std::byte> mine, std::byte* slot) {
  std::array<Transfer, kMaxRanks> transfers;
  size_t n = 0;
  for (int b = 0; b < blocks(); ++b) {
    if (b == block()) continue;
    transfers[n++] = {b * setup_.block_size + place(), mine.data(), mine.size(),
                      slot + mine.size() * size_t(b), mine.size()};
  }
  return n == 0 || mine.empty() || run_transfers({transfers.data(), n}, Operation::kGather);
}

// --- messages, by one thread --------------------------------------------------------------------

void BlockCommunicator::broadcast(std::vector<std::byte>& message, int root) {
  CONVOKE_CHECK(0 <= root && root < setup_.size);
  bool ok = !region_.broken();
  // In the root's block the root writes, in the others the rank that received the message.
  const bool root_block = root / setup_.block_size == block();
  const int source = root_block ? root % setup_.block_size : 0;
  if (ok && setup_.link && source == place()) {
    ok = root_block ? send_message(message) : receive_message(message, root);
  }
  if (ok && setup_.block_size > 1) ok = broadcast_in_block(message, source);
  failed_ = failed_ || !ok;
  if (failed_) throw region_.error();
}

bool BlockCommunicator::send_message(const std::vector<std::byte>& message) {
  const uint64_t length = message.size();
  const size_t first = std::min(message.size(), kLetterRoom);
  std::memcpy(letter_.data(), &length, sizeof length);
  if (first > 0) std::memcpy(letter_.data() + sizeof length, message.data(), first);
  std::array<Transfer, 2 * kMaxRanks> transfers;
  size_t n = 0;
  for (int b = 0; b < blocks(); ++b) {
    if (b == block()) continue;
    const int peer = b * setup_.block_size;
    transfers[n++] = {peer, letter_.data(), sizeof length + first, nullptr, 0};
    if (message.size() > first) {
      transfers[n++] = {peer, message.data() + first, message.size() - first, nullptr, 0};
    }
  }
  return run_transfers({transfers.data(), n}, Operation::kBroadcast);
}

bool BlockCommunicator::receive_message(std::vector<std::byte>& message, int root) {
  const Transfer letter{root, nullptr, 0, letter_.data(), letter_.size()};
  if (!run_transfers({&letter, 1}, Operation::kBroadcast)) return false;
  uint64_t length = 0;
  std::memcpy(&length, letter_.data(), sizeof length);
  message.resize(length);
  const size_t first = std::min(message.size(), kLetterRoom);
  if (first > 0) std::memcpy(message.data(), letter_.data() + sizeof length, first);
  if (first == message.size()) return true;
  const Transfer rest{root, nullptr, 0, message.data() + first, message.size() - first};
  return run_transfers({&rest, 1}, Operation::kBroadcast);
}

// In chunks, alternating between two places. Readers post when they have copied; the writer waits
// for that before it uses the place again, usually long after.
bool BlockCommunicator::broadcast_in_block(std::vector<std::byte>& message, int source) {
  size_t done = 0;
  do {
    const int parity = message_parity_;
    std::byte* chunk = region_.message_bytes(parity);
    if (source == place()) {
      if (!wait_for_block(message_used_[size_t(parity)], {}, Operation::kBroadcast)) return false;
      region_.message_length(parity) = message.size();
    } else {
      if (!wait_for(source, sequence_ + 1, {}, Operation::kBroadcast)) return false;
      if (done == 0) message.resize(region_.message_length(parity));
    }
    const size_t bytes = std::min(message.size() - done, size_t(kMessageChunk));
    if (bytes > 0) {
      if (source == place()) {
        std::memcpy(chunk, message.data() + done, bytes);
      } else {
        std::memcpy(message.data() + done, chunk, bytes);
      }
    }
    done += bytes;
    region_.post(++sequence_);
    message_used_[size_t(parity)] = sequence_;
    message_parity_ ^= 1;
  } while (done < message.size());
  return true;
}

void BlockCommunicator::barrier() {
  region_.post(sequence_ + 1);
  bool ok = wait_for_block(sequence_ + 1, {}, Operation::kBarrier);
  if (ok && setup_.link) {
    std::array<Transfer, kMaxRanks> transfers;
    std::array<std::byte, kMaxRanks> bytes{};
    size_t n = 0;
    for (int b = 0; b < blocks(); ++b) {
      if (b == block()) continue;
      transfers[n] = {b * setup_.block_size + place(), &letter_[0], 1, &bytes[n], 1};
      ++n;
    }
    ok = run_transfers({transfers.data(), n}, Operation::kBarrier);
    if (ok) region_.post(sequence_ + 2);
    ok = ok && wait_for_block(sequence_ + 2, {}, Operation::kBarrier);
  }
  finish_alone(ok, setup_.link ? 2 : 1);
}

// --- waiting and failing ------------------------------------------------------------------------

void BlockCommunicator::RegionBoard::read(std::span<uint64_t> marks) {
  for (int r = 0; r < region_.ranks(); ++r) marks[size_t(r)] = region_.mark(r);
}

WaitPolicy BlockCommunicator::policy(int team_size) const {
  static const int online = int(sysconf(_SC_NPROCESSORS_ONLN));
  // A launcher may have given each rank cores of its own, or all ranks the same ones. Spinning
  // while the awaited thread has no core of its own only keeps it from running.
  const bool crowded = team_size > kUsableCores || team_size * setup_.block_size > online;
  WaitPolicy policy;
  policy.spins = crowded ? 50 : 2000;
  policy.yields = crowded ? 20 : 50;
  // The watch of the team's first thread ends a wait in time; the others' end with it.
  policy.limit = std::chrono::nanoseconds(int64_t(2 * setup_.options.deadline_seconds * 1e9));
  return policy;
}

bool BlockCommunicator::wait_for(int place_of_peer, uint32_t sequence, Waiter waiter,
                                 Operation operation) {
  if (waiter.first) watch_.begin(int(operation));
  const bool ok = await(place_of_peer, sequence, waiter, operation);
  if (waiter.first && ok) watch_.end();
  return ok;
}

bool BlockCommunicator::wait_for_block(uint32_t sequence, Waiter waiter, Operation operation) {
  if (region_.broken()) return false;
  if (waiter.first) watch_.begin(int(operation));
  for (int r = 0; r < setup_.block_size; ++r) {
    if (r != place() && !await(r, sequence, waiter, operation)) return false;
  }
  if (waiter.first) watch_.end();
  return true;
}

// For one rank of our block, as a part of a wait that is watched.
bool BlockCommunicator::await(int place_of_peer, uint32_t sequence, Waiter waiter,
                              Operation operation) {
  const int peer = block() * setup_.block_size + place_of_peer;
  WaitPolicy how = policy(waiter.team_size);
  const auto poll = [&] {
    if (waiter.first) {
      look_around([peer] { return peer; });
    } else {
      heard_abort();
    }
  };
  FunctionRef<void()> poll_reference(poll);
  how.poll = &poll_reference;
  const WaitResult result = region_.wait_for(place_of_peer, sequence, how);
  if (result == WaitResult::kTimeout) miss(peer, int(operation));
  return result == WaitResult::kDone;
}

bool BlockCommunicator::run_transfers(std::span<const Transfer> transfers, Operation operation) {
  if (region_.broken() || heard_abort()) return false;
  PeerLink& link = *setup_.link;
  watch_.begin(int(operation));
  const int result = link.run(transfers, [&] {
    look_around([&] { return link.awaited(); });
    return region_.broken();
  });
  if (result == PeerLink::kFailed) fail(Error(ErrorKind::kPeer, link.failure()));
  if (result != PeerLink::kDone) return false;
  watch_.end();
  return true;
}

// During a wait, now and then: breaks the region if the wait has come to nothing.
void BlockCommunicator::look_around(FunctionRef<int()> awaited) {
  if (heard_abort() || region_.broken()) return;
  const auto blame = watch_.look(std::chrono::steady_clock::now(), awaited);
  if (blame) miss(blame->rank, blame->operation);
}

void BlockCommunicator::miss(int rank, int operation) {
  fail(Error(ErrorKind::kTimeout,
             fmt::format("{} did not come to {} within {:.3g} s", setup_.names[size_t(rank)],
                         name_of(operation), setup_.options.deadline_seconds)));
}

void BlockCommunicator::fail(const Error& error) noexcept {
  region_.break_with(error.kind(), error.what());
  if (setup_.link) setup_.link->send_abort(error);
}

bool BlockCommunicator::heard_abort() {
  if (!setup_.link) return false;
  const std::optional<Error> error = setup_.link->take_abort();
  if (error) region_.break_with(error->kind(), error->what());
  return error.has_value();
}

void BlockCommunicator::abort(const std::string& reason) {
  fail(Error(ErrorKind::kPeer, reason));
}

// The last thread of the team to arrive moves the state on and decides for all whether to throw;
// nobody looks at either before the barrier, and nobody is left in the operation. All ranks have
// posted the last point, so the broadcast chunks are free again (and the points recorded for them
// never grow so old that the comparison wraps).
void BlockCommunicator::finish(Team& team, bool ok, Operation operation, uint32_t points) {
  if (!ok) thread_failed_.store(true, std::memory_order_relaxed);
  if (finished_.fetch_add(1, std::memory_order_acq_rel) + 1 == team.count()) {
    finished_.store(0, std::memory_order_relaxed);
    sequence_ += points;
    if (operation == Operation::kReduce) reduce_parity_ ^= 1;
    if (operation == Operation::kGather) gather_parity_ ^= 1;
    message_used_.fill(sequence_);
    failed_ = failed_ || thread_failed_.load(std::memory_order_relaxed);
  }
  team.barrier();
  if (failed_) throw region_.error();
}

void BlockCommunicator::finish_alone(bool ok, uint32_t points) {
  sequence_ += points;
  message_used_.fill(sequence_);
  failed_ = failed_ || !ok;
  if (failed_) throw region_.error();
}

}  // namespace convoke
