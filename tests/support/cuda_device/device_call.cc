#include "tests/support/cuda_device/device_call.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "kernels/check.h"

namespace convoke::cuda {
namespace {

constexpr size_t kAlignment = 256;
constexpr size_t kStagingBytes = size_t{4} << 20;

/// What all calls of a process share. Never freed: at exit the device may be gone before it.
class Device {
 public:
  static Device& get() {
    static auto* const device = new Device;
    return *device;
  }
  CUstream_st* stream() const { return stream_; }
  bool has_clusters() const { return clusters_; }

  /// Pinned memory until the next begin().
  std::byte* stage(size_t bytes) {
    while (chunk_ < staging_.size() && used_ + bytes > staging_[chunk_].bytes()) {
      ++chunk_;
      used_ = 0;
    }
    if (chunk_ == staging_.size()) staging_.emplace_back(std::max(bytes, kStagingBytes), "a test");
    std::byte* const memory = static_cast<std::byte*>(staging_[chunk_].data()) + used_;
    used_ += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return memory;
  }
  void begin() {
    CONVOKE_CHECK(!in_call_);
    in_call_ = true;
    chunk_ = used_ = 0;
  }
  void end() { in_call_ = false; }

 private:
  Device() {
    clusters_ = device_info(0).major >= 9;  // and selects it
    stream_ = create_stream();
  }
  bool clusters_ = false;
  CUstream_st* stream_ = nullptr;
  std::vector<PinnedBuffer> staging_;
  size_t chunk_ = 0, used_ = 0;
  bool in_call_ = false;
};

void enqueue_bytes(void* to, const void* from, size_t bytes) {
  enqueue_copy(Device::get().stream(), to, bytes, from, bytes, bytes, 1);
}

/// How far before the end of a piece of kAlignment bytes memory of so many bytes begins, if it is
/// to be aligned as the host's is, up to 16 bytes.
size_t offset_of(const void* data, size_t bytes) {
  const auto address = reinterpret_cast<uintptr_t>(data) | 16;
  const size_t aligned = size_t{1} << std::countr_zero(address);
  const size_t offset = (kAlignment - bytes % kAlignment) % kAlignment;
  return offset / aligned * aligned;
}

}  // namespace

DeviceBuffer filled_memory(size_t bytes, int value) {
  Device::get();  // selects it
  DeviceBuffer memory(bytes, "a test");
  const std::vector<std::byte> fill(bytes, std::byte(value));
  copy_and_wait(memory.data(), fill.data(), bytes);
  return memory;
}

void copy_and_wait(void* to, const void* from, size_t bytes) {
  enqueue_bytes(to, from, bytes);
  synchronise(Device::get().stream());
}

DeviceCall::DeviceCall(bool clusters) {
  Device::get().begin();
  stream_.handle = Device::get().stream();
  stream_.clusters = clusters && Device::get().has_clusters();
}

DeviceCall::~DeviceCall() {
  Device::get().end();
}

DeviceCall::Piece DeviceCall::copied(const void* data, size_t bytes) {
  Piece piece{static_cast<const std::byte*>(data), bytes};
  if (bytes == 0) return piece;
  const size_t offset = offset_of(data, bytes);
  memory_.emplace_back(offset + bytes, "a test");
  piece.there = static_cast<std::byte*>(memory_.back().data()) + offset;
  piece.staged = Device::get().stage(bytes);
  std::memcpy(piece.staged, data, bytes);
  enqueue_bytes(piece.there, piece.staged, bytes);
  return piece;
}

void* DeviceCall::mirror(const void* data, size_t bytes, bool back) {
  if (data == nullptr || bytes == 0) return nullptr;
  const auto* const begin = static_cast<const std::byte*>(data);
  auto next = pieces_.upper_bound(begin);
  if (next != pieces_.begin()) {
    Piece& piece = std::prev(next)->second;
    if (begin < piece.here + piece.bytes) {
      CONVOKE_CHECK(begin + bytes <= piece.here + piece.bytes);  // name the larger one first
      piece.back |= back;
      return piece.there + (begin - piece.here);
    }
  }
  CONVOKE_CHECK(next == pieces_.end() || begin + bytes <= next->first);
  Piece piece = copied(data, bytes);
  piece.back = back;
  pieces_[begin] = piece;
  return piece.there;
}

TensorView DeviceCall::view_there(const TensorView& view, bool back) {
  const int64_t elements = view.rows == 0 ? 0 : (view.rows - 1) * view.row_stride + view.cols;
  TensorView there = view;
  there.data = mirror(view.data, size_t(elements) * dtype_size(view.dtype), back);
  return there;
}

std::span<const PickRow> DeviceCall::in(std::span<const PickRow> rows) {
  std::vector<PickRow> there(rows.begin(), rows.end());
  for (PickRow& row : there) row.edits = in(row.edits);
  return copy_of(there);
}

AttentionBatch DeviceCall::in(const AttentionBatch& batch) {
  std::vector<int32_t> slots(batch.block_tables.size(), 0);
  for (int r = 0; r < batch.rows; ++r) {
    int32_t& end = slots[size_t(batch.sequence[size_t(r)])];
    end = std::max({end, batch.slot[size_t(r)] + 1, batch.context[size_t(r)]});
    for (int32_t i = batch.path_begin[size_t(r)]; i < batch.path_begin[size_t(r) + 1]; ++i) {
      end = std::max(end, batch.path_slots[size_t(i)] + 1);
    }
  }
  std::vector<const int32_t*> tables;
  for (size_t s = 0; s < slots.size(); ++s) {
    const int32_t blocks = (slots[s] + kKvBlockSize - 1) / kKvBlockSize;
    tables.push_back(in(batch.block_tables[s], size_t(blocks)));
  }
  return {batch.rows,        in(batch.sequence),   in(batch.position),   in(batch.slot),
          in(batch.context), in(batch.path_begin), in(batch.path_slots), copy_of(tables)};
}

std::span<const KvMove> DeviceCall::in(std::span<const KvMove> moves) {
  std::map<const int32_t*, int32_t> blocks;
  for (const KvMove& move : moves) {
    int32_t& most = blocks[move.block_table];
    most = std::max(most, std::max(move.from, move.to) / kKvBlockSize + 1);
  }
  std::vector<KvMove> there(moves.begin(), moves.end());
  for (KvMove& move : there) {
    move.block_table = in(move.block_table, size_t(blocks[move.block_table]));
  }
  return copy_of(there);
}

Workspace DeviceCall::workspace(size_t bytes) {
  if (bytes == 0) return {};
  memory_.emplace_back(bytes, "a test");
  std::byte* const staged = Device::get().stage(bytes);
  std::memset(staged, 0xff, bytes);
  enqueue_bytes(memory_.back().data(), staged, bytes);
  return {memory_.back().data(), bytes};
}

void DeviceCall::finish() {
  for (const auto& [here, piece] : pieces_) {
    if (piece.back) enqueue_bytes(piece.staged, piece.there, piece.bytes);
  }
  synchronise(stream_.handle);
  for (const auto& [here, piece] : pieces_) {
    if (piece.back) std::memcpy(const_cast<std::byte*>(here), piece.staged, piece.bytes);
  }
}

namespace on_device {

void embed(const EmbedArgs& args) {
  DeviceCall call;
  cuda::embed(call.stream(), {call.in(args.tokens), call.in(args.table), args.first_token,
                              call.in(args.lookahead), call.out(args.x)});
  call.finish();
}

void silu_mul(const SiluMulArgs& args) {
  DeviceCall call;
  cuda::silu_mul(call.stream(), {call.in(args.x), call.out(args.y)});
  call.finish();
}

void add_bias(const TensorView& x, const float* bias) {
  DeviceCall call;
  cuda::add_bias(call.stream(), call.out(x), call.in(bias, size_t(x.cols)));
  call.finish();
}

void fill_zero(const TensorView& x) {
  DeviceCall call;
  cuda::fill_zero(call.stream(), call.out(x));
  call.finish();
}

void convert(const TensorView& x, const TensorView& y) {
  DeviceCall call;
  cuda::convert(call.stream(), call.in(x), call.out(y));
  call.finish();
}

void copy_rows(const CopyRowsArgs& args) {
  DeviceCall call;
  cuda::copy_rows(call.stream(), {call.in(args.x), call.out(args.y), call.in(args.from),
                                  call.in(args.to), args.accumulate});
  call.finish();
}

namespace {
RmsNormArgs norm_there(DeviceCall& call, const RmsNormArgs& args, bool changes_x) {
  return {changes_x ? call.out(args.x) : call.in(args.x), call.in(args.weight, size_t(args.x.cols)),
          args.epsilon, call.out(args.y), call.in(args.gather)};
}
}  // namespace

void rms_norm(const RmsNormArgs& args) {
  DeviceCall call;
  cuda::rms_norm(call.stream(), norm_there(call, args, false));
  call.finish();
}

void add_rms_norm(const RmsNormArgs& args, const TensorView& addend) {
  DeviceCall call;
  cuda::add_rms_norm(call.stream(), norm_there(call, args, true), call.in(addend));
  call.finish();
}

namespace {
RopeAppendArgs rope_there(DeviceCall& call, const RopeAppendArgs& args,
                          const AttentionBatch* batch) {
  int32_t positions = 0;
  for (const int32_t p : args.batch->position) positions = std::max(positions, p + 1);
  const auto head = size_t(args.kv.shape.head_dim), table = size_t(positions) * (head / 2);
  return {call.out(args.qkv),
          args.heads,
          batch,
          args.kv,
          call.in(args.cos, table),
          call.in(args.sin, table),
          call.in(args.q_norm, head),
          call.in(args.k_norm, head),
          args.norm_epsilon};
}
}  // namespace

void rope_append(const RopeAppendArgs& args) {
  DeviceCall call;
  const AttentionBatch batch = call.in(*args.batch);
  cuda::rope_append(call.stream(), rope_there(call, args, &batch));
  call.finish();
}

void rope_attention(const RopeAppendArgs& rope, const AttentionArgs& args, int max_length) {
  DeviceCall call;
  const AttentionBatch batch = call.in(*args.batch);
  std::vector<int32_t> tile_begin(size_t(batch.rows) + 1, -1);
  AttentionPlan plan;
  plan.tiles = plan_attention(args.batch->sequence, args.heads, args.kv.shape.kv_heads, tile_begin);
  plan.tile_begin = call.copy_of(tile_begin).data();
  plan.max_length = max_length;
  const Workspace workspace = call.workspace(
      attention_workspace_bytes(batch.rows, args.heads, args.kv.shape.head_dim, max_length));
  AttentionArgs there = args;
  const RopeAppendArgs rope_args = rope_there(call, rope, &batch);
  there.qkv = rope_args.qkv, there.batch = &batch, there.y = call.out(args.y);
  cuda::rope_attention(call.stream(), rope_args, there, plan, workspace);
  call.finish();
}

void move_kv(std::span<const KvLayer> layers, const KvShape& shape, std::span<const KvMove> moves) {
  DeviceCall call;
  cuda::move_kv(call.stream(), call.in(layers), shape, call.in(moves));
  call.finish();
}

void pack(const MatrixSource& source, const CudaPackedMatrix& packed) {
  DeviceCall call;
  MatrixSource there = source;
  for (TensorView& part : there.parts) part = call.in(part);
  there.scales = call.in(source.scales);
  cuda::pack(call.stream(), there, packed);
  call.finish();
}

void matmul(const MatmulArgs& args, bool clusters) {
  DeviceCall call(clusters);
  const auto& layout = static_cast<const CudaPackedMatrix&>(*args.weights).layout();
  MatmulArgs there = args;
  there.x = call.in(args.x);
  there.bias = call.in(args.bias, size_t(layout.outputs) * (layout.gated ? 2 : 1));
  there.y = call.out(args.y);
  there.norm_weight = call.in(args.norm_weight, size_t(layout.inputs));
  const Workspace workspace = call.workspace(
      matmul_workspace_bytes(call.stream(), layout, int(args.x.rows), args.norm_weight != nullptr));
  cuda::matmul(call.stream(), there, workspace);
  call.finish();
}

void rank_sum(std::span<const float> parts, int64_t stride, int ranks, std::span<float> target,
              bool add) {
  DeviceCall call;
  cuda::rank_sum(call.stream(), call.in(parts).data(), stride, ranks, call.out(target).data(),
                 int64_t(target.size()), add);
  call.finish();
}

void pick_slice(const PickSliceArgs& args, bool clusters) {
  DeviceCall call(clusters);
  cuda::pick_slice(
      call.stream(),
      {call.in(args.logits), args.first_token, call.in(args.params), call.out(args.picks)},
      call.workspace(pick_workspace_bytes(args.logits.rows, args.logits.cols)));
  call.finish();
}

void pick_full(const PickFullArgs& args, const PickFullWants& wants, bool clusters) {
  DeviceCall call(clusters);
  const PickFullArgs there = {call.in(args.logits), call.in(args.params),    call.out(args.scratch),
                              call.out(args.picks), call.out(args.logprobs), args.max_logprobs};
  cuda::pick_full(call.stream(), there, wants,
                  call.workspace(pick_workspace_bytes(args.logits.rows, args.logits.cols)));
  call.finish();
}

void rank(const RankArgs& args, bool clusters) {
  DeviceCall call(clusters);
  RankArgs there = args;
  there.logits = call.in(args.logits), there.tokens = call.in(args.tokens);
  there.params = call.in(args.params), there.ranked = call.out(args.ranked);
  cuda::rank(call.stream(), there);
  call.finish();
}

}  // namespace on_device
}  // namespace convoke::cuda
