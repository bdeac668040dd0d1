// The communicator over memory: ranks form blocks that share a region; blocks exchange messages.
//
// The ranks are cut into aligned blocks of 2^b consecutive ranks. With one block (threads of a
// process, processes of a host) everything happens in the region; with blocks of one rank
// everything is messages; in between, a reduction climbs the same tree inside the block first and
// then from block to block, so the bits do not depend on where ranks live.
//
// Deadlines: the first thread of a team watches the rank's waits (parallel/wait_watch.h) and, at
// the deadline, names the rank at fault, which need not be the one it waits for itself.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "kernels/cpu/cpu_backend.h"
#include "parallel/communicator.h"
#include "parallel/peer_link.h"
#include "parallel/shared_region.h"
#include "parallel/wait_watch.h"

namespace convoke {

struct BlockSetup {
  int rank = 0;
  int size = 1;
  int block_size = 1;              ///< divides size; 1, 2, 4 or 8
  std::shared_ptr<void> memory;    ///< keeps the region's memory
  void* region = nullptr;          ///< initialised for region_shape() by one of the block
  std::unique_ptr<PeerLink> link;  ///< null with a single block
  std::vector<std::string> names;  ///< [size] "rank 3 on host h2": for messages
  std::string description;
  CommunicatorOptions options;

  RegionShape region_shape() const;
};

/// Memory for a region between threads, initialised.
std::shared_ptr<void> allocate_region(const RegionShape& shape);

class BlockCommunicator final : public Communicator {
 public:
  explicit BlockCommunicator(BlockSetup setup);

  int rank() const override { return setup_.rank; }
  int size() const override { return setup_.size; }
  std::string describe() const override { return setup_.description; }
  float* reduce_buffer() override;
  void all_reduce_add(Stream& stream, float* target, int64_t count) override;
  void all_gather(Stream& stream, std::span<const std::byte> mine,
                  std::span<std::byte> all) override;
  void broadcast(std::vector<std::byte>& message, int root) override;
  void barrier() override;
  void abort(const std::string& reason) override;

 private:
  using Team = cpu::CpuStream;
  enum class Operation { kReduce, kGather, kBroadcast, kBarrier };

  /// A thread that waits.
  struct Waiter {
    int team_size = 1;
    bool first = true;  ///< of its team: speaks for the rank
  };
  static Waiter waiter(const Team& team) { return {team.count(), team.index() == 0}; }

  /// Marks in the region: for a single block.
  class RegionBoard final : public WaitBoard {
   public:
    explicit RegionBoard(SharedRegion& region) : region_(region) {}
    void publish(uint64_t mark) override { region_.set_mark(mark); }
    void read(std::span<uint64_t> marks) override;

   private:
    SharedRegion& region_;
  };

  int blocks() const { return setup_.size / setup_.block_size; }
  int block() const { return setup_.rank / setup_.block_size; }
  int place() const { return setup_.rank % setup_.block_size; }

  bool reduce_at_once(Team& team, float* target, int64_t count);
  bool reduce_in_slices(Team& team, float* target, int64_t count);
  bool climb_blocks(Team& team, float* slice, int64_t count, bool ok);
  bool gather_from_blocks(std::span<const std::byte> mine, std::byte* slot);

  bool send_message(const std::vector<std::byte>& message);
  bool receive_message(std::vector<std::byte>& message, int root);
  bool broadcast_in_block(std::vector<std::byte>& message, int source);

  bool wait_for(int place, uint32_t sequence, Waiter waiter, Operation operation);
  bool wait_for_block(uint32_t sequence, Waiter waiter, Operation operation);
  bool await(int place, uint32_t sequence, Waiter waiter, Operation operation);
  bool run_transfers(std::span<const Transfer> transfers, Operation operation);
  WaitPolicy policy(int team_size) const;
  void look_around(FunctionRef<int()> awaited);
  void miss(int rank, int operation);
  void fail(const Error& error) noexcept;
  bool heard_abort();

  void finish(Team& team, bool ok, Operation operation, uint32_t points);
  void finish_alone(bool ok, uint32_t points);

  BlockSetup setup_;
  SharedRegion region_;
  RegionBoard region_board_;
  WaitWatch watch_;
  std::unique_ptr<float[]> received_;  // a slice from another block
  std::vector<std::byte> letter_;      // first message of a broadcast: length, then bytes

  // Changed between operations only: by the last thread of the team to finish one.
  uint32_t sequence_ = 0;  // synchronisation points passed in the region
  int reduce_parity_ = 0;
  int gather_parity_ = 0;
  int message_parity_ = 0;
  std::array<uint32_t, 2> message_used_{};  // the point at which each chunk's readers are done
  bool failed_ = false;

  alignas(64) std::atomic<int> finished_{0};  // threads of the team
  std::atomic<bool> thread_failed_{false};
};

}  // namespace convoke
