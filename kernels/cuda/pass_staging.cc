#include "kernels/cuda/pass_staging.h"

#include <algorithm>
#include <bit>

#include "kernels/check.h"
#include "kernels/cuda/launch_log.h"

namespace convoke::cuda {
namespace {

constexpr size_t kAlignment = 16;  // of every array
// Edits of logits for which room is made at the start, as runtime/picker.cc does.
constexpr size_t kUsualEdits = size_t{1} << 14;
constexpr size_t kArrays = 32;  // no pass has more, block tables and edits apart

size_t padded(size_t bytes) {
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

int32_t blocks_of(int64_t slots) {
  return int32_t((slots + kKvBlockSize - 1) / kKvBlockSize);
}

/// Padding rows belong to one more.
size_t most_sequences(const PassLimits& limits) {
  return size_t(limits.sequences) + 1;
}

/// Of a sequence that grows, attention is planned anew each time its length has doubled: what a row
/// does not see costs it nothing but blocks that end at once.
int step_of_length(int length, const PassLimits& limits) {
  constexpr unsigned kLeast = 256;
  return int(std::min(std::bit_ceil(std::max(unsigned(length), kLeast)),
                      unsigned(std::max(limits.positions, 1))));
}

size_t step_of_moves(size_t moves) {
  size_t step = 8;
  while (step < moves) step *= 4;
  return step;
}

}  // namespace

// --- What kernels read --------------------------------------------------------------------------

void PassStaging::reserve(const PassLimits& limits, size_t attention_workspace) {
  limits_ = limits;
  attention_workspace_ = attention_workspace;
  const auto rows = size_t(limits.rows), sequences = most_sequences(limits);
  const auto blocks = size_t(blocks_of(limits.positions + limits.rows));
  // Per row: tokens, lists of seven entries to gather and scatter by, six arrays of the batch with
  // its path (a tree of all rows has paths that grow with its depth; 32 nodes each are more than
  // trees have), tiles, moves, a pick.
  const size_t per_row = (8 + 6 + 32 + 2) * sizeof(int32_t) + 4 * sizeof(KvMove) + sizeof(PickRow);
  ensure(rows * per_row + sequences * (padded(blocks * sizeof(int32_t)) + sizeof(int32_t*)) +
         kUsualEdits * sizeof(LogitEdit) + (kArrays + rows) * kAlignment);
  slots_.reserve(sequences);
  pieces_.reserve(kArrays);
  turns_.reserve(rows);
}

size_t PassStaging::bytes_for(const PassArrays& arrays) const {
  size_t bytes = arrays.tokens.size_bytes() + arrays.layers.size_bytes() +
                 step_of_moves(arrays.moves.size()) * sizeof(KvMove);
  size_t count = kArrays;
  for (const auto& rows : arrays.rows) bytes += rows.size_bytes();
  for (const auto& rows : arrays.indices) bytes += rows.size_bytes();
  for (const auto& picks : arrays.picks) {
    bytes += picks.size_bytes();
    count += picks.size();
    for (const PickRow& row : picks) bytes += row.edits.size_bytes();
  }
  if (arrays.batch != nullptr) {
    const AttentionBatch& batch = *arrays.batch;
    bytes += batch.path_begin.size_bytes() + batch.path_slots.size_bytes();
    // sequence, position, slot, context; a tile, or a turn of one, has a row at least.
    bytes += size_t(batch.rows) * 6 * sizeof(int32_t);
    count += batch.block_tables.size() + turns_.capacity();
    bytes += std::max(batch.block_tables.size(), most_sequences(limits_)) * sizeof(const int32_t*);
    for (const int32_t slots : slots_) bytes += size_t(blocks_of(slots)) * sizeof(int32_t);
  }
  return bytes + count * kAlignment;
}

void PassStaging::ensure(size_t bytes) {
  if (bytes <= device_.bytes()) return;
  bytes = std::max(bytes, 2 * device_.bytes());
  pinned_ = PinnedBuffer(bytes, "the arrays of a pass");
  device_ = DeviceBuffer(bytes, "the arrays of a pass");
}

void PassStaging::begin(const CudaStream& stream, const PassArrays& arrays, bool recurring) {
  used_ = 0;
  recurring_ = recurring;
  pieces_.clear();
  turns_.clear();
  host_batch_ = arrays.batch;
  host_moves_ = arrays.moves.data();
  if (arrays.batch != nullptr) measure(*arrays.batch, arrays.moves);
  ensure(bytes_for(arrays));
  // First what has a place of its own for each row; lists of varying length lie behind it, so that
  // they move nothing.
  place(arrays.tokens);
  if (arrays.batch != nullptr) place_rows(*arrays.batch);
  place_moves(arrays);
  for (const auto& rows : arrays.rows) place(rows);
  for (const auto& rows : arrays.indices) place(rows);
  for (size_t i = 0; i < arrays.picks.size(); ++i) picks_[i] = place(arrays.picks[i]);
  if (arrays.batch != nullptr) plan_turns(*arrays.batch);
  place_lists(arrays);
  if (used_ == 0) return;
  enqueue_copy(stream.handle, device_.data(), used_, pinned_.data(), used_, used_, 1);
}

template <typename T>
std::span<T> PassStaging::take(size_t count) {
  static_assert(std::is_trivially_copyable_v<T> && alignof(T) <= kAlignment);
  const size_t bytes = padded(count * sizeof(T));
  CONVOKE_CHECK_LE(used_ + bytes, pinned_.bytes());
  std::byte* const at = static_cast<std::byte*>(pinned_.data()) + used_;
  used_ += bytes;
  std::fill_n(at, bytes, std::byte{});
  return {reinterpret_cast<T*>(at), count};
}

template <typename T>
std::span<T> PassStaging::append(std::span<const T> values) {
  const std::span<T> at = take<T>(values.size());
  std::ranges::copy(values, at.begin());
  for (T& value : at) clear_padding(value);
  return at;
}

template <typename T>
std::span<T> PassStaging::place(std::span<const T> host) {
  if (host.empty()) return {};
  const std::span<T> at = append(host);
  const auto offset = size_t(reinterpret_cast<const std::byte*>(at.data()) -
                             static_cast<const std::byte*>(pinned_.data()));
  pieces_.push_back({reinterpret_cast<const std::byte*>(host.data()), host.size_bytes(), offset});
  return at;
}

template <typename T>
T* PassStaging::device_address(T* pinned) const {
  const auto offset =
      reinterpret_cast<const std::byte*>(pinned) - static_cast<const std::byte*>(pinned_.data());
  return reinterpret_cast<T*>(static_cast<std::byte*>(device_.data()) + offset);
}

const std::byte* PassStaging::find(const void* host, size_t bytes) const {
  const auto* const first = static_cast<const std::byte*>(host);
  for (const Piece& piece : pieces_) {
    if (first >= piece.host && first + bytes <= piece.host + piece.bytes) {
      return static_cast<const std::byte*>(device_.data()) + piece.offset + (first - piece.host);
    }
  }
  CONVOKE_CHECK(!"a kernel's array was not announced in PassArrays");
  return nullptr;
}

std::span<const AttentionTurn> PassStaging::turns(const AttentionBatch* batch) const {
  CONVOKE_CHECK(batch != nullptr && batch == host_batch_);
  return turns_;
}

/// Which slots of each sequence the pass touches, for tables come without their lengths.
void PassStaging::measure(const AttentionBatch& batch, std::span<const KvMove> moves) {
  slots_.assign(batch.block_tables.size(), 0);
  max_length_ = 1;
  for (size_t r = 0; r < size_t(batch.rows); ++r) {
    const auto path = batch.path_slots.subspan(
        size_t(batch.path_begin[r]), size_t(batch.path_begin[r + 1] - batch.path_begin[r]));
    int32_t& slots = slots_[size_t(batch.sequence[r])];
    slots = std::max({slots, batch.context[r], batch.slot[r] + 1});
    for (const int32_t slot : path) slots = std::max(slots, slot + 1);
    max_length_ = std::max(max_length_, batch.context[r] + int(path.size()));
  }
  for (const KvMove& move : moves) {
    const auto table = std::ranges::find(batch.block_tables, move.block_table);
    CONVOKE_CHECK(table != batch.block_tables.end());
    int32_t& slots = slots_[size_t(table - batch.block_tables.begin())];
    slots = std::max({slots, move.from + 1, move.to + 1});
  }
}

void PassStaging::place_rows(const AttentionBatch& batch) {
  batch_ = {.rows = batch.rows,
            .sequence = on_device_now(place(batch.sequence)),
            .position = on_device_now(place(batch.position)),
            .slot = on_device_now(place(batch.slot)),
            .context = on_device_now(place(batch.context)),
            .path_begin = on_device_now(place(batch.path_begin))};
  const size_t sequences = batch.block_tables.size();
  table_addresses_ = take<const int32_t*>(std::max(sequences, most_sequences(limits_)));
  batch_.block_tables = on_device_now(table_addresses_).first(sequences);
}

void PassStaging::plan_turns(const AttentionBatch& batch) {
  CONVOKE_CHECK_GE(limits_.kv_heads, 1);  // reserve() was called
  if (recurring_) max_length_ = std::max(max_length_, step_of_length(max_length_, limits_));
  const size_t of_row = attention_workspace_bytes(1, limits_.heads, limits_.head_dim, max_length_);
  const size_t fit = std::max<size_t>(attention_workspace_ / of_row, 1);
  const int most = int(std::min(fit, size_t(batch.rows)));
  for (int first = 0; first < batch.rows; first += most) {
    plan_turn(batch, first, std::min(most, batch.rows - first));
  }
}

void PassStaging::plan_turn(const AttentionBatch& batch, int first, int rows) {
  const auto begin = size_t(first), count = size_t(rows);
  const std::span<int32_t> tile_begin = take<int32_t>(count + 1);
  int tiles = plan_attention(batch.sequence.subspan(begin, count), limits_.heads, limits_.kv_heads,
                             tile_begin);
  if (recurring_) {
    // Tiles of no rows, behind the others.
    std::ranges::fill(tile_begin.subspan(size_t(tiles)), int32_t(count));
    tiles = std::min(int(std::bit_ceil(unsigned(tiles))), rows);
  }
  turns_.push_back({.batch = {.rows = rows,
                              .sequence = batch_.sequence.subspan(begin, count),
                              .position = batch_.position.subspan(begin, count),
                              .slot = batch_.slot.subspan(begin, count),
                              .context = batch_.context.subspan(begin, count),
                              .path_begin = batch_.path_begin.subspan(begin, count + 1),
                              .path_slots = {},  // place_lists
                              .block_tables = batch_.block_tables},
                    .plan = {.tile_begin = device_address(tile_begin.data()),
                             .tiles = tiles,
                             .max_length = max_length_},
                    .first_row = first});
}

void PassStaging::place_moves(const PassArrays& arrays) {
  moves_ = {};
  if (arrays.moves.empty()) return;
  CONVOKE_CHECK(arrays.batch != nullptr);
  place(arrays.layers);
  moves_ = take<KvMove>(recurring_ ? step_of_moves(arrays.moves.size()) : arrays.moves.size());
  std::ranges::copy(arrays.moves, moves_.begin());
}

std::span<const KvMove> PassStaging::moves(std::span<const KvMove> moves) const {
  CONVOKE_CHECK(moves.data() == host_moves_ && moves.size() <= moves_.size());
  return on_device_now(moves_);
}

/// Paths, block tables and edits, and the addresses of these.
void PassStaging::place_lists(const PassArrays& arrays) {
  if (arrays.batch != nullptr) {
    const AttentionBatch& batch = *arrays.batch;
    batch_.path_slots = on_device_now(append(batch.path_slots));
    for (AttentionTurn& turn : turns_) turn.batch.path_slots = batch_.path_slots;
    for (size_t i = 0; i < batch.block_tables.size(); ++i) {
      const std::span<const int32_t> table(batch.block_tables[i], size_t(blocks_of(slots_[i])));
      table_addresses_[i] = device_address(append(table).data());
    }
  }
  for (size_t i = 0; i < arrays.moves.size(); ++i) {
    const auto tables = arrays.batch->block_tables;
    const auto table = std::ranges::find(tables, moves_[i].block_table);
    moves_[i].block_table = table_addresses_[size_t(table - tables.begin())];
  }
  for (size_t i = 0; i < arrays.picks.size(); ++i) place_edits(arrays.picks[i], picks_[i]);
}

void PassStaging::place_edits(std::span<const PickRow> rows, std::span<PickRow> staged) {
  for (size_t i = 0; i < rows.size(); ++i) {
    const std::span<const LogitEdit> edits = rows[i].edits;
    staged[i].edits = {};
    if (!edits.empty()) staged[i].edits = on_device_now(append(edits));
  }
}

// --- What kernels write for the host -------------------------------------------------------------

size_t PassResults::bytes_for(size_t rows) {
  constexpr size_t kRow =
      sizeof(Pick) + kMaxRanked * sizeof(RankedToken) + (1 + kMaxRanked) * sizeof(TokenLogprob);
  return rows * (kRow + 3 * kAlignment);
}

void PassResults::ensure(size_t bytes) {
  CONVOKE_CHECK(pending_.empty());
  if (bytes <= device_.bytes()) return;
  pinned_ = PinnedBuffer(bytes, "the results of a pass");
  device_ = DeviceBuffer(bytes, "the results of a pass");
}

std::byte* PassResults::add(void* host, size_t bytes) {
  CONVOKE_CHECK_LE(used_ + bytes, device_.bytes());
  pending_.push_back({host, bytes, used_});
  std::byte* const at = static_cast<std::byte*>(device_.data()) + used_;
  used_ += padded(bytes);
  return at;
}

void PassResults::read_back(const CudaStream& stream) {
  if (used_ == 0) return;
  enqueue_copy(stream.handle, pinned_.data(), used_, device_.data(), used_, used_, 1);
}

void PassResults::deliver() {
  for (const Pending& result : pending_) {
    std::memcpy(result.host, static_cast<std::byte*>(pinned_.data()) + result.offset, result.bytes);
  }
  drop();
}

}  // namespace convoke::cuda
