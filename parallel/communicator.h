// Collectives between the tensor-parallel ranks of one replica.
//
// Contract:
//  - Collective: every rank calls the same operations in the same order with equal sizes.
//  - Methods with a Stream are part of a backend program: every thread of the rank's team calls
//    them (kernels/backend.h), and they end with a team barrier. The others are called by one
//    thread outside of programs.
//  - Sums are a fixed balanced binary tree over ranks, ((r0+r1)+(r2+r3))+..., whatever the size of
//    the message, so together with reduction groups every tp gives the same bits.
//  - Every wait is bounded by the deadline given at construction; then, or after abort(), the call
//    throws Error(kPeer / kTimeout) naming the rank that did not come. After that the communicator
//    is broken and every call throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/backend.h"

namespace convoke {

/// Rows of the residual stream that a sum goes to, and what follows it.
struct ResidualSum {
  float* target = nullptr;  ///< [rows][columns], dense, as the reduce buffer
  int64_t rows = 0, columns = 0;
  const float* bias = nullptr;         ///< [columns], added to every row after the sum, or null
  const float* norm_weight = nullptr;  ///< [columns]
  float norm_epsilon = 0;
  TensorView normalised;  ///< out [rows, columns], as RmsNormArgs::y
};

class Communicator {
 public:
  virtual ~Communicator() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  virtual std::string describe() const = 0;  ///< "threads", "shared memory", "mpi", "nccl"

  /// Where this rank's contribution to the next all_reduce_add is written, and where its target
  /// lies: in the memory of the backend that the communicator was made for. The capacity was given
  /// at construction (floats). The pointer may differ after each all_reduce_add: ask again.
  virtual float* reduce_buffer() = 0;
  /// target[i] += tree sum over ranks of reduce_buffer[i], i < count.
  virtual void all_reduce_add(Stream& stream, float* target, int64_t count) = 0;
  /// Whether the norm that follows a sum belongs to it: where that saves a kernel.
  virtual bool fuses_norm() const { return false; }
  /// all_reduce_add, then Backend::add_bias and Backend::rms_norm, with their bits. Only where
  /// fuses_norm() holds.
  virtual void all_reduce_add_norm(Stream& stream, const ResidualSum& sum);
  /// all[r * mine.size() ...] = rank r's `mine`; both in host memory, read as Stream::host() has
  /// it.
  virtual void all_gather(Stream& stream, std::span<const std::byte> mine,
                          std::span<std::byte> all) = 0;

  /// all[r * count + i] = rank r's mine[i]; both in the memory of the backend that the communicator
  /// was made for (here: the host's). reserve_gather() was told of as many floats.
  virtual void all_gather_floats(Stream& stream, const float* mine, float* all, int64_t count);
  /// Takes what memory that needs, outside of programs.
  virtual void reserve_gather(int64_t /*count*/) {}

  /// Root's message to all. Receivers' `message` is resized (no allocation once grown). Idle
  /// receivers wait here between steps: they spin shortly, then sleep. The deadline holds here too:
  /// a root with nothing to say sends an empty message well before it.
  virtual void broadcast(std::vector<std::byte>& message, int root) = 0;
  virtual void barrier() = 0;

  /// Makes every waiting and later call, on every rank that can be reached, throw with `reason`.
  /// May be called from any thread.
  virtual void abort(const std::string& reason) = 0;
};

struct CommunicatorOptions {
  int64_t reduce_capacity = 0;  ///< floats in reduce_buffer
  int64_t gather_capacity = 0;  ///< bytes of one rank's contribution to all_gather
  /// For a rank that all wait for to be named. What follows then (ending the job) takes up to 2 s,
  /// and a silent rank should have ended the job within 10.
  double deadline_seconds = 8;
  /// Ranks that may share memory; the rest goes by messages. Fewer than 8 only in tests.
  int largest_block = 8;
};

/// One rank, alone: no copies, no waits.
std::unique_ptr<Communicator> make_single_communicator(const CommunicatorOptions& options);

/// `size` ranks that are threads of this process; element r is for rank r's thread.
std::vector<std::unique_ptr<Communicator>> make_thread_communicators(
    int size, const CommunicatorOptions& options);

}  // namespace convoke
