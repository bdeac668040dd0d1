// The interface between the model and the hardware.
//
// Contract of every kernel (all methods that take a Stream):
//  - It takes views and a stream; it never allocates and never waits for the device.
//  - CPU: a program (see run()) is executed by every thread of the backend's team at once, each
//    with its own Stream. All threads of the team call the same kernels in the same order with
//    equal arguments; a kernel splits its work over the team and ends with a team barrier, so its
//    output is visible to every thread when it returns.
//  - GPU: a program is executed once by the calling thread and enqueues work on the stream. Host
//    code in a program starts with Stream::host().
//  - Memory: views and plain pointers are the backend's own memory (allocate(), BackendArray),
//  which
//    the host can read only where shares_host_memory() holds. Spans (tokens, rows, parameters,
//    picks) are host memory: those that kernels read are parts of what run() was given as
//    PassArrays, those that they write can be read after run(), or after Stream::host().
//  - Row independence: the bits of output row r depend on input row r, the weights and, for
//    attention, the keys and values visible to the row, ordered by position, and on nothing else:
//    not on the number of rows, the other rows, the thread count, or where in memory things lie.
//  - What lies outside the stated extents (padding rows, cache slots beyond the length) is never
//    read in a way that reaches an output, even if it holds NaN.
//
// Activations between kernels: the residual stream and matrix-product outputs are float32; inputs
// of matrix products are in activation_dtype() (bfloat16 with weights of bfloat16 or 8 bits, else
// float32).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "kernels/function_ref.h"
#include "kernels/pick.h"
#include "kernels/random_matrix.h"
#include "kernels/tensor.h"

namespace convoke {

namespace cpu {
class CpuStream;
}

/// An ordered queue of work on a backend. On the CPU: one thread's membership in the team.
class Stream {
 public:
  virtual ~Stream() = default;
  /// Where host code inside a program begins: waits until all that was enqueued is done and what it
  /// wrote in host memory can be read, and returns the calling thread's place in the team that goes
  /// on with it. On the CPU that is the stream itself, and there is nothing to wait for; on a GPU
  /// it is a team of one.
  virtual cpu::CpuStream& host() = 0;
  /// Of the threads that execute a program this is the one that called run().
  virtual bool leads() const = 0;
};

/// Memory of a backend, freed with the object. Contents are undefined at first.
class Buffer {
 public:
  virtual ~Buffer() = default;
  virtual void* data() const = 0;
  virtual size_t bytes() const = 0;
};

/// A weight matrix in the backend's own layout, made once at load.
class PackedMatrix {
 public:
  virtual ~PackedMatrix() = default;
  virtual int64_t outputs() const = 0;
  virtual int64_t inputs() const = 0;
  virtual DType activation_dtype() const = 0;  ///< dtype that matmul's input must have
  virtual size_t bytes() const = 0;            ///< bytes one pass over the matrix reads
};

/// y[r][n] = sum_k x[r][k] * W[n][k], W given as views of checkpoint memory
/// (host memory).
struct MatrixSource {
  /// Stacked along the outputs: each [outputs_i, inputs], in any float dtype, rows maybe strided.
  std::vector<TensorView> parts;
  /// Storage dtype of the packed weights: kBFloat16, kFloat32 or kFloat8E4M3, on GPUs also
  /// kFloat16.
  DType dtype = DType::kBFloat16;
  /// Reduction groups: the inputs are cut into this many equal contiguous ranges (inputs must be
  /// divisible), each is summed on its own, and the partial sums are added as a balanced binary
  /// tree: ((g0+g1)+(g2+g3))+... A power of two. A rank that holds groups [a, b) of a larger
  /// matrix computes exactly the subtree over [a, b).
  int groups = 1;
  /// The parts are two of equal shape, a gate and what it lets through: the product is that of
  /// silu_mul, silu(x * gate) * (x * up), and has the outputs of one of them.
  bool gated = false;
  /// Of kFloat8E4M3, whose products are y[r][n] = tree over groups of (scale[n] * sum_k x[r][k] *
  /// w[n][k]), with x in bfloat16 and the sums of a group those of bfloat16 weights: the scales of
  /// the stacked outputs. Parts are then kFloat8E4M3 themselves. Without scales, parts are of other
  /// float dtypes and rounded to nearest, with scales chosen so that an output's largest weight
  /// becomes 448; this is no longer the product of what was given, and a slice of the inputs may
  /// get other scales than the whole.
  std::span<const float> scales = {};
  /// How elements get to other memory: copies the rows of a part, or some of them, to `to`, one
  /// behind the other. Called by several threads at once; what it throws, pack() throws. Empty:
  /// they are copied from where they lie.
  std::function<void(const TensorView& rows, std::byte* to)> read = nullptr;
  /// Not empty: what the parts are slices of, one each. Parts then have extents and a dtype, and no
  /// data: their elements are made where they are packed. Of backends with memory of their own.
  std::vector<RandomSlice> random = {};
};

/// y = x * W, plus bias. What may be fused before and after it gives the bits of the kernels that
/// it stands for.
struct MatmulArgs {
  TensorView x;  ///< [rows, inputs], weights->activation_dtype(); float32 where it is normalised
  const PackedMatrix* weights = nullptr;
  /// [outputs] added after the sum, or null; of gated weights first the gate's, then the other's.
  const float* bias = nullptr;
  TensorView y;  ///< out [rows, outputs], float32; of gated weights also activation_dtype()
  /// Not null: each row of x is normalised on its way in, as by rms_norm with this weight into
  /// activation_dtype().
  const float* norm_weight = nullptr;  ///< [inputs]
  float norm_epsilon = 0;
  /// y = (y + sum) + bias instead of sum + bias. Not of gated weights, and y is not x.
  bool accumulate = false;
};

/// x[r] = table[token[r] - first_token] + 0.0f for tokens in this rank's slice, else zeros (ranks
/// then add up). Negative tokens (look-ahead rows) name row -1 - token of `lookahead`, which only
/// the rank with first_token == 0 writes. Adding 0.0f turns -0 into +0, as the sum over ranks does.
struct EmbedArgs {
  std::span<const int32_t> tokens;  ///< [rows]
  TensorView table;                 ///< [slice, hidden], any float dtype
  int32_t first_token = 0;
  TensorView lookahead;  ///< [count, hidden] or empty
  TensorView x;          ///< out [rows, hidden] float32
};

/// y = x / sqrt(mean(x^2) + eps) * weight
struct RmsNormArgs {
  TensorView x;                   ///< [rows, hidden] float32
  const float* weight = nullptr;  ///< [hidden]
  float epsilon = 0;
  TensorView y;  ///< out [rows, hidden], float32 or bfloat16
  /// When not empty: y row i is made from x row gather[i] (the rows that need logits).
  std::span<const int32_t> gather;
};

/// y[to[i]] = x[from[i]], or += it, rounded to y's dtype. Rows of y that no index names stay.
struct CopyRowsArgs {
  TensorView x;  ///< any float dtype
  TensorView y;  ///< float32 or bfloat16, as many columns as x; does not overlap x
  /// Rows of x; -1 stands for a row of zeros, kPaddingToken for one of NaN. Empty: 0, 1, ...
  std::span<const int32_t> from;
  /// Rows of y, none of them twice; -1 drops the row. Empty: 0, 1, ...
  std::span<const int32_t> to;
  bool accumulate = false;  ///< x and y are float32, and x is added to y
  /// Where both are given they are equally many; where neither is, x and y have as many rows.
  int64_t rows() const {
    if (!from.empty()) return int64_t(from.size());
    return to.empty() ? x.rows : int64_t(to.size());
  }
};

/// Geometry of a paged key/value cache of one layer on one rank. A block holds kBlockSize
/// consecutive slots of one sequence; the layout inside a block is the backend's own.
inline constexpr int kKvBlockSize = 16;
struct KvShape {
  int kv_heads = 0;  ///< on this rank
  int head_dim = 0;
  DType dtype = DType::kBFloat16;  ///< kBFloat16 or kFloat32, on GPUs also kFloat16
};
struct KvLayer {
  void* data = nullptr;  ///< blocks * Backend::kv_block_bytes(shape)
  KvShape shape;
};

/// Which rows belong to which sequence and what each can see. All arrays have a fixed capacity
/// owned by the caller. A *slot* s of a sequence lives in block table[s / 16], place s % 16.
struct AttentionBatch {
  int rows = 0;
  std::span<const int32_t> sequence;  ///< [rows] index into block_tables; rows of one are adjacent
  std::span<const int32_t> position;  ///< [rows] absolute position (for RoPE and the window)
  std::span<const int32_t> slot;      ///< [rows] where this row's key and value are stored
  /// The row sees slots [0, context[r]) at positions equal to their slot number, and after them, at
  /// the following positions in order, slots path_slots[path_begin[r] .. path_begin[r+1]): its
  /// ancestors in the draft tree and itself. A row of a plain chain has an empty path, and its
  /// context includes itself.
  std::span<const int32_t> context;     ///< [rows]
  std::span<const int32_t> path_begin;  ///< [rows + 1]
  std::span<const int32_t> path_slots;
  std::span<const int32_t* const> block_tables;  ///< [sequences]
};

struct RopeAppendArgs {
  /// [rows, (heads + 2 * kv_heads) * head_dim] float32: queries, keys, values of each row.
  /// Queries are normalised and rotated in place; keys and values go to the cache.
  TensorView qkv;
  int heads = 0;
  const AttentionBatch* batch = nullptr;
  KvLayer kv;
  /// [max_position, head_dim / 2] cosines and sines; element j rotates (j, j + head_dim / 2).
  const float* cos = nullptr;
  const float* sin = nullptr;
  const float* q_norm = nullptr;  ///< [head_dim] RMSNorm weight per head before rotation, or null
  const float* k_norm = nullptr;
  float norm_epsilon = 0;
};

struct AttentionArgs {
  TensorView qkv;  ///< as RopeAppendArgs leaves it; the query part is read
  int heads = 0;   ///< query heads on this rank; head h uses key/value head h * kv_heads / heads
  const AttentionBatch* batch = nullptr;
  KvLayer kv;
  float scale = 0;
  int window = 0;  ///< sliding window: only positions > own - window are seen; 0 = all
  TensorView y;    ///< out [rows, heads * head_dim], float32 or bfloat16
  /// A hint: the matrices that are multiplied next, which may be fetched meanwhile; or null.
  const PackedMatrix* next[2] = {};
};

/// y[r][i] = silu(x[r][i]) * x[r][n + i], n = y.cols
struct SiluMulArgs {
  TensorView x;  ///< [rows, 2 n] float32
  TensorView y;  ///< out [rows, n], float32 or bfloat16
};

/// Copies key and value of one sequence from slot to slot (commit of an accepted tree node).
struct KvMove {
  const int32_t* block_table = nullptr;
  int32_t from = 0;
  int32_t to = 0;
};

/// The host arrays that the kernels of one program read. A backend with memory of its own copies
/// them there in one transfer before the program starts; a kernel's spans are these or parts of
/// them. They stay as they are until run() returns.
struct PassArrays {
  std::span<const int32_t> tokens;
  const AttentionBatch* batch = nullptr;  ///< what kernels get as `batch`: the same object
  std::span<const KvLayer> layers;        ///< of moves
  std::span<const KvMove> moves;          ///< their block tables are among the batch's
  /// Rows that are gathered and how they are picked: those without and those with filters.
  std::array<std::span<const int32_t>, 2> rows;
  std::array<std::span<const PickRow>, 2> picks;
  /// Rows by which copy_rows gathers and scatters; tokens may do so, too.
  std::array<std::span<const int32_t>, 2> indices;
};

/// A pass may have rows that only fill it up to a number that Backend::pass_rows() asks for, after
/// all others: with this token, a block table that is not read, no context, an empty path, and the
/// slot -1. They enter as NaN, so what they would ever reach shows, and reach nothing.
inline constexpr int32_t kPaddingToken = INT32_MIN;

/// The largest passes that a backend will be asked for, on this rank.
struct PassLimits {
  int rows = 0;
  int logit_rows = 0;  ///< of one pick
  int sequences = 0;   ///< with rows in one pass
  int positions = 0;   ///< that a row can see, itself included
  int heads = 0, kv_heads = 0, head_dim = 0;
  int64_t vocabulary = 0;  ///< columns of logits
};

class Backend {
 public:
  virtual ~Backend() = default;

  virtual std::string describe() const = 0;  ///< "cpu (amx-bf16, 2 threads)"
  /// Another backend on the same threads or device, for another thread to use; may outlive this
  /// one. What one allocates the other may read, once the program that wrote it has run; a matrix
  /// that one packed the other may multiply with, once it has been told of it (adopt()). CPU:
  /// programs of siblings wait for each other. GPU: each has a stream, work space and graphs of its
  /// own, and nothing orders the one's kernels after the other's or makes its host wait: they run
  /// side by side as far as the device has room.
  virtual std::unique_ptr<Backend> sibling() = 0;
  /// Whether kernels work on the host's memory, and the host on what allocate() gives.
  virtual bool shares_host_memory() const = 0;
  virtual std::unique_ptr<Buffer> allocate(size_t bytes) = 0;
  /// Host memory that copy() is fast with, and does not wait for.
  virtual std::unique_ptr<Buffer> allocate_host(size_t bytes) = 0;
  virtual std::unique_ptr<PackedMatrix> pack(const MatrixSource& source) = 0;
  /// Prepares for products with a matrix that a sibling packed, as pack() does for those of its
  /// own; outside of programs, and before reserve().
  virtual void adopt(const PackedMatrix& matrix) = 0;
  virtual size_t kv_block_bytes(const KvShape& shape) const = 0;  ///< keys and values, one layer

  /// Takes the memory that passes within these limits need, after all matrices were packed and
  /// outside of programs; programs take none. Asked again, what is there stays if it suffices.
  virtual void reserve(const PassLimits& limits) = 0;

  /// How many rows a pass, or a pick from it, of `rows` rows is to have, padding rows included; at
  /// most as many as reserve() was told of. A backend that replays passes has few different ones.
  virtual int pass_rows(int rows) const { return rows; }

  /// Executes `program` (see the contract above) and returns when its results can be read.
  /// One program at a time; called from one thread.
  virtual void run(const PassArrays& arrays, FunctionRef<void(Stream&)> program) = 0;
  /// A program whose kernels read no host arrays, or that runs where host memory is shared.
  void run(FunctionRef<void(Stream&)> program) { run({}, program); }

  /// to = from: same dtype and extents, each in the backend's memory or the host's.
  virtual void copy(Stream&, const TensorView& from, const TensorView& to) = 0;

  virtual void embed(Stream&, const EmbedArgs&) = 0;
  virtual void rms_norm(Stream&, const RmsNormArgs&) = 0;
  virtual void matmul(Stream&, const MatmulArgs&) = 0;
  virtual void rope_append(Stream&, const RopeAppendArgs&) = 0;
  virtual void attention(Stream&, const AttentionArgs&) = 0;
  /// rope_append, then attention over the same qkv, heads, batch and cache, with the same bits.
  virtual void rope_attention(Stream&, const RopeAppendArgs&, const AttentionArgs&) = 0;
  virtual void silu_mul(Stream&, const SiluMulArgs&) = 0;
  /// x[r][c] += bias[c]; x float32.
  virtual void add_bias(Stream&, const TensorView& x, const float* bias) = 0;
  virtual void fill_zero(Stream&, const TensorView& x) = 0;
  /// Writes the slice of a random matrix that has x's extents.
  virtual void fill_random(Stream&, const RandomSlice& slice, const TensorView& x) = 0;
  virtual void copy_rows(Stream&, const CopyRowsArgs&) = 0;
  /// y = x, rounded to y's dtype; x float32, y float32 or bfloat16, same extents, no overlap.
  virtual void convert(Stream&, const TensorView& x, const TensorView& y) = 0;
  /// Moves are applied in order within each layer (a later source may be an earlier target).
  virtual void move_kv(Stream&, std::span<const KvLayer> layers, std::span<const KvMove> moves) = 0;

  /// Token choice over one rank's slice of the vocabulary; see kernels/pick.h.
  virtual void pick_slice(Stream&, const PickSliceArgs&) = 0;
  /// Token choice over whole rows of logits, with filters and log-probabilities.
  virtual void pick_full(Stream&, const PickFullArgs&) = 0;
  /// The best tokens of each row, as the pick rule scores them.
  virtual void rank(Stream&, const RankArgs&) = 0;
};

/// Constants in a backend's memory that kernels read: norms, biases, tables.
template <typename T>
class BackendArray {
 public:
  BackendArray() = default;
  /// Copies `values`; outside of programs. Throws Error(kResource) when memory runs out.
  BackendArray(Backend& backend, std::span<const T> values);
  const T* data() const;  ///< null when empty
  size_t size() const { return size_; }
  bool empty() const { return size_ == 0; }

 private:
  std::unique_ptr<Buffer> memory_;
  size_t size_ = 0;
};
using FloatArray = BackendArray<float>;
using IndexArray = BackendArray<int32_t>;

/// A matrix where kernels can read it: one of the host's memory in its place where that is shared,
/// else in a copy; or a random one. Copies of this object, and of it on a sibling, are the same
/// memory, which goes with the last of them.
class ResidentMatrix {
 public:
  ResidentMatrix() = default;
  /// Outside of programs. `owner` of `host` is kept where `host` is read in its place, and then
  /// only. Throws Error(kResource).
  ResidentMatrix(Backend& backend, const TensorView& host, std::shared_ptr<const void> owner);
  /// Made where it is read: `rows` rows of the slice. Outside of programs.
  ResidentMatrix(Backend& backend, const RandomSlice& slice, int64_t rows);
  const TensorView& view() const { return view_; }

 private:
  std::shared_ptr<const void> memory_;
  TensorView view_;
};

}  // namespace convoke
