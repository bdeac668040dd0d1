// A pass's host arrays on the device, and what its kernels write for the host: one buffer and one
// transfer each way.
#pragma once

#include <cstring>
#include <type_traits>
#include <vector>

#include "kernels/cuda/device_buffer.h"
#include "kernels/cuda/kernels.h"

namespace convoke::cuda {

/// Rows of a pass that attention takes together: they fit its work space.
struct AttentionTurn {
  AttentionBatch batch;  ///< on the device
  AttentionPlan plan;
  int first_row = 0;
};

/// The arrays that kernels read (kernels/backend.h: PassArrays).
class PassStaging {
 public:
  /// Takes memory for passes within these limits. A pass with more edits of logits than a few
  /// thousand, or beyond the limits, makes it grow once. `attention_workspace`: bytes there are.
  void reserve(const PassLimits& limits, size_t attention_workspace);

  /// Lays the arrays out and enqueues their transfer. What lay there before must be done with.
  /// `recurring`: the pass is one of many alike. Where things lie, and what turns() says of how
  /// much there is, then depends on the numbers of rows and picks, and otherwise only on a few
  /// steps of the number of moves, of attention's tiles and of the longest row.
  void begin(const CudaStream& stream, const PassArrays& arrays, bool recurring);

  /// Where an announced array, or a part of one, lies on the device.
  template <typename T>
  std::span<const T> on_device(std::span<const T> host) const {
    if (host.empty()) return {};
    return {reinterpret_cast<const T*>(find(host.data(), host.size_bytes())), host.size()};
  }
  /// The rows of the announced batch, which `batch` must be, in order.
  std::span<const AttentionTurn> turns(const AttentionBatch* batch) const;
  const AttentionBatch& batch() const { return batch_; }
  /// The announced moves, which `moves` must be, and maybe some that move nothing.
  std::span<const KvMove> moves(std::span<const KvMove> moves) const;

 private:
  /// An array that kernels are asked for by its place in host memory.
  struct Piece {
    const std::byte* host;
    size_t bytes, offset;
  };
  size_t bytes_for(const PassArrays& arrays) const;
  void ensure(size_t bytes);
  /// Zeros in the pinned buffer.
  template <typename T>
  std::span<T> take(size_t count);
  /// A copy in the pinned buffer.
  template <typename T>
  std::span<T> append(std::span<const T> values);
  template <typename T>
  std::span<T> place(std::span<const T> host);  ///< copies, and remembers where from
  template <typename T>
  T* device_address(T* pinned) const;
  const std::byte* find(const void* host, size_t bytes) const;
  template <typename T>
  std::span<const T> on_device_now(std::span<T> pinned) const {
    return {device_address(pinned.data()), pinned.size()};
  }
  void measure(const AttentionBatch& batch, std::span<const KvMove> moves);
  void place_rows(const AttentionBatch& batch);
  void plan_turns(const AttentionBatch& batch);
  void plan_turn(const AttentionBatch& batch, int first, int rows);
  void place_moves(const PassArrays& arrays);
  void place_lists(const PassArrays& arrays);
  void place_edits(std::span<const PickRow> rows, std::span<PickRow> staged);

  PassLimits limits_;
  size_t attention_workspace_ = 0;
  PinnedBuffer pinned_;
  DeviceBuffer device_;
  size_t used_ = 0;
  bool recurring_ = false;
  std::vector<Piece> pieces_;
  const AttentionBatch* host_batch_ = nullptr;
  AttentionBatch batch_;
  std::vector<AttentionTurn> turns_;
  const KvMove* host_moves_ = nullptr;
  std::span<KvMove> moves_;                    ///< staged
  std::span<const int32_t*> table_addresses_;  ///< staged
  std::span<PickRow> picks_[2];                ///< staged
  std::vector<int32_t> slots_;                 ///< of each sequence, that the pass may touch
  int max_length_ = 0;                         ///< no row sees more positions
};

/// What kernels write for the host: kept together on the device, read back in one transfer.
class PassResults {
 public:
  void ensure(size_t bytes);
  /// Bytes that the results of so many picked rows take, whatever they ask for.
  static size_t bytes_for(size_t rows);

  /// Device memory for what `host` is to become.
  template <typename T>
  std::span<T> place(std::span<T> host) {
    static_assert(std::is_trivially_copyable_v<T>);
    if (host.empty()) return {};
    return {reinterpret_cast<T*>(add(host.data(), host.size_bytes())), host.size()};
  }
  /// Enqueues the transfer of all that was placed since the last delivery.
  void read_back(const CudaStream& stream);
  /// After the stream was waited for: hands the results out.
  void deliver();
  void drop() { used_ = 0, pending_.clear(); }

 private:
  struct Pending {
    void* host;
    size_t bytes, offset;
  };
  std::byte* add(void* host, size_t bytes);

  PinnedBuffer pinned_;
  DeviceBuffer device_;
  size_t used_ = 0;
  std::vector<Pending> pending_;
};

}  // namespace convoke::cuda
