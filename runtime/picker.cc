#include "runtime/picker.h"

#include <algorithm>
#include <array>
#include <limits>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "parallel/shared_region.h"
#include "runtime/sampling_params.h"

namespace convoke {
namespace {

// Logit edits of a step for which room is made at the start: penalties of a few thousand tokens.
// More grow the list, once.
constexpr size_t kUsualEdits = size_t{1} << 14;

int64_t widest_slice(int vocabulary, int tp) {
  // Slices are dealt in panels of 16 (parallel/shard_plan.cc); the widest has ceil(panels / tp).
  const int64_t panels = (vocabulary + 15) / 16;
  return (panels + tp - 1) / tp * 16;
}

bool is_filtered(const PickRow& row) {
  const bool filters =
      row.temperature > 0 && (row.top_k > 0 || row.top_p < 1.0f || row.min_p > 0.0f);
  return filters || row.logprobs >= 0;
}

template <typename T>
std::span<const std::byte> bytes_of(const T* data, size_t count) {
  return {reinterpret_cast<const std::byte*>(data), count * sizeof(T)};
}

template <typename T>
std::span<std::byte> writable_bytes_of(T* data, size_t count) {
  return {reinterpret_cast<std::byte*>(data), count * sizeof(T)};
}

/// The best of the ranks' rankings, which lie `stride` apart. Slices ascend with the rank, so among
/// equal scores the lower rank has the lower token.
void merge_rankings(const RankedToken* first, size_t stride, int ranks,
                    std::span<RankedToken> merged) {
  std::array<size_t, kMaxRanks> next{};  // of each rank, the first entry not yet taken
  for (RankedToken& out : merged) {
    int best = -1;
    for (int r = 0; r < ranks; ++r) {
      const RankedToken& head = first[size_t(r) * stride + next[size_t(r)]];
      if (head.token < 0) continue;
      if (best < 0 || head.score > first[size_t(best) * stride + next[size_t(best)]].score)
        best = r;
    }
    out = best < 0 ? RankedToken{-std::numeric_limits<float>::infinity(), -1}
                   : first[size_t(best) * stride + next[size_t(best)]++];
  }
}

}  // namespace

int64_t gather_capacity(int vocabulary, int tp) {
  const int64_t slice = widest_slice(vocabulary, tp) * int64_t(sizeof(float));
  const int64_t choice = int64_t(sizeof(Pick) + (1 + kMaxLogprobs) * sizeof(TokenLogprob));
  const int64_t ranking = kMaxRanked * int64_t(sizeof(RankedToken));
  return kLogitRows * std::max({slice, choice, ranking});
}

Picker::Picker(Backend& backend, Communicator& communicator, const ShardPlan& plan, int vocabulary,
               int max_rows)
    : backend_(backend),
      communicator_(communicator),
      plan_(plan),
      vocabulary_(vocabulary),
      slice_width_(widest_slice(vocabulary, plan.tp)) {
  for (Group* group : {&plain_, &filtered_}) {
    group->requests.reserve(size_t(max_rows));
    group->rows.reserve(size_t(max_rows));
    group->params.reserve(size_t(max_rows));
    group->picks.reserve(size_t(max_rows));
  }
  bids_.resize(size_t(plan.tp) * kLogitRows);
  edits_.reserve(kUsualEdits);
}

void Picker::rank_probes(int count) {
  CONVOKE_CHECK(count >= 0 && count <= kMaxRanked);
  rank_count_ = size_t(count);
  for (Group* group : {&plain_, &filtered_}) {
    group->rankings.reserve(group->requests.capacity() * rank_count_);
  }
  if (plan_.tp > 1) gathered_rankings_.resize(size_t(plan_.tp) * kLogitRows * rank_count_);
}

void Picker::begin() {
  for (Group* group : {&plain_, &filtered_}) {
    group->requests.clear();
    group->rows.clear();
    group->params.clear();
  }
  edits_.clear();
  max_logprobs_ = -1;
}

void Picker::add(const PickRequest& request) {
  Group& group = is_filtered(request.params) ? filtered_ : plain_;
  group.requests.push_back(request);
  max_logprobs_ = std::max(max_logprobs_, int(request.params.logprobs));
}

void Picker::end() {
  for (Group* group : {&plain_, &filtered_}) {
    // Rows to be ranked first, so that they are one range.
    const auto rest =
        std::partition(group->requests.begin(), group->requests.end(),
                       [](const PickRequest& request) { return request.ranked != nullptr; });
    for (const PickRequest& request : group->requests) {
      group->rows.push_back(request.row);
      group->params.push_back(request.params);
      // Only now: the storage may have moved while requests were added.
      group->params.back().edits =
          std::span(edits_).subspan(request.edits_begin, request.edits_end - request.edits_begin);
    }
    pad(*group, size_t(rest - group->requests.begin()));
    group->picks.resize(group->rows.size());
    group->rankings.resize(group->ranked_rows * rank_count_);
  }
  if (filtered_.rows.empty()) return;
  logprobs_.resize(filtered_.rows.size() * size_t(1 + max_logprobs_));
  gathered_logprobs_.resize(size_t(plan_.tp) * kLogitRows * size_t(1 + max_logprobs_));
  if (scratch_ == nullptr) {
    scratch_ = backend_.allocate(size_t(kLogitRows) * 2 * size_t(vocabulary_) * sizeof(float));
    if (plan_.tp > 1) {
      const size_t slice_bytes = size_t(kLogitRows) * size_t(slice_width_) * sizeof(float);
      packed_slice_ = backend_.allocate(slice_bytes);
      gathered_ = backend_.allocate(slice_bytes * size_t(plan_.tp));
      communicator_.reserve_gather(int64_t(kLogitRows) * slice_width_);
      whole_ = backend_.allocate(size_t(kLogitRows) * size_t(vocabulary_) * sizeof(float));
    }
  }
}

/// Fills up to the numbers of rows that the backend wants; `ranked`: how many want a ranking.
void Picker::pad(Group& group, size_t ranked) {
  const size_t count = group.rows.size();
  group.ranked_rows = ranked;
  if (count == 0 || count > kLogitRows) return;
  const auto padded = size_t(backend_.pass_rows(int(count)));
  group.rows.resize(padded, group.rows.front());
  group.params.resize(padded);
  if (ranked > 0) group.ranked_rows = std::min(size_t(backend_.pass_rows(int(ranked))), padded);
}

void Picker::announce(PassArrays& arrays) const {
  arrays.rows = {plain_.rows, filtered_.rows};
  arrays.picks = {plain_.params, filtered_.params};
}

/// Calls work(begin, count) for the rows of a group, as many at a time as there can be logits of.
template <typename Work>
void Picker::in_parts(const Group& group, Work work) {
  for (size_t begin = 0; begin < group.rows.size(); begin += kLogitRows) {
    work(begin, std::min<size_t>(kLogitRows, group.rows.size() - begin));
  }
}

void Picker::run(Stream& stream, Transformer& transformer) {
  const auto logits_of = [&](const Group& group, size_t begin, size_t count) {
    return transformer.logits(stream, std::span(group.rows).subspan(begin, count));
  };
  in_parts(plain_, [&](size_t begin, size_t count) {
    const TensorView logits = logits_of(plain_, begin, count);
    rank(stream, plain_, logits, begin, count);
    backend_.pick_slice(stream, {.logits = logits,
                                 .first_token = int32_t(plan_.vocabulary.begin),
                                 .params = std::span(plain_.params).subspan(begin, count),
                                 .picks = std::span(plain_.picks).subspan(begin, count)});
  });
  in_parts(filtered_, [&](size_t begin, size_t count) {
    const TensorView logits = logits_of(filtered_, begin, count);
    rank(stream, filtered_, logits, begin, count);
    pick_whole(stream, logits, begin, count);
  });
  if (plan_.tp == 1) return;
  // Only when the backend has done all of its work: what follows is the host's.
  for (Group* group : {&plain_, &filtered_}) {
    in_parts(*group, [&](size_t begin, size_t count) {
      merge_ranks(stream, *group, begin, count);
      group == &plain_ ? choose_bids(stream, begin, count) : exchange_shares(stream, begin, count);
    });
  }
}

void Picker::choose_bids(Stream& stream, size_t begin, size_t count) {
  const std::span<Pick> picks = std::span(plain_.picks).subspan(begin, count);
  communicator_.all_gather(stream, bytes_of(picks.data(), count),
                           writable_bytes_of(bids_.data(), count * size_t(plan_.tp)));
  cpu::CpuStream& self = stream.host();
  if (self.index() == 0) {
    for (size_t i = 0; i < count; ++i) {
      Pick best = bids_[i];
      for (int r = 1; r < plan_.tp; ++r) {
        const Pick& other = bids_[size_t(r) * count + i];
        const uint64_t digest = best.digest + other.digest;
        if (beats(other, best)) best = other;
        best.digest = digest;
      }
      picks[i] = best;
    }
  }
  self.barrier();
}

/// The rankings of the ranked ones among these rows.
std::span<RankedToken> Picker::rankings_of(Group& group, size_t begin, size_t count) {
  if (begin >= group.ranked_rows || rank_count_ == 0) return {};
  const size_t rows = std::min(count, group.ranked_rows - begin);
  return std::span(group.rankings).subspan(begin * rank_count_, rows * rank_count_);
}

void Picker::rank(Stream& stream, Group& group, const TensorView& logits, size_t begin,
                  size_t count) {
  const std::span<RankedToken> rankings = rankings_of(group, begin, count);
  if (rankings.empty()) return;
  const size_t rows = rankings.size() / rank_count_;
  backend_.rank(stream, {.logits = logits.row_range(0, int64_t(rows)),
                         .first_token = int32_t(plan_.vocabulary.begin),
                         .params = std::span(group.params).subspan(begin, rows),
                         .count = int(rank_count_),
                         .ranked = rankings});
}

void Picker::merge_ranks(Stream& stream, Group& group, size_t begin, size_t count) {
  const std::span<RankedToken> rankings = rankings_of(group, begin, count);
  if (rankings.empty()) return;
  communicator_.all_gather(
      stream, bytes_of(rankings.data(), rankings.size()),
      writable_bytes_of(gathered_rankings_.data(), rankings.size() * size_t(plan_.tp)));
  cpu::CpuStream& self = stream.host();
  const size_t rows = rankings.size() / rank_count_;
  for (size_t i = size_t(self.index()); i < rows; i += size_t(self.count())) {
    const auto first = gathered_rankings_.begin() + ptrdiff_t(i * rank_count_);
    merge_rankings(&*first, rankings.size(), plan_.tp,
                   rankings.subspan(i * rank_count_, rank_count_));
  }
  self.barrier();
}

TensorView Picker::gather_rows(Stream& stream, const TensorView& logits, size_t count) {
  if (plan_.tp == 1) return logits;
  const auto width = size_t(slice_width_);
  const auto rows = int64_t(count);
  auto* mine = static_cast<float*>(packed_slice_->data());
  auto* all = static_cast<float*>(gathered_->data());
  const TensorView dense = TensorView::matrix(mine, DType::kFloat32, rows, slice_width_);
  backend_.copy(stream, logits, dense.col_range(0, logits.cols));
  communicator_.all_gather_floats(stream, mine, all, rows * slice_width_);
  const TensorView whole =
      TensorView::matrix(whole_->data(), DType::kFloat32, rows, int64_t(vocabulary_));
  for (int r = 0; r < plan_.tp; ++r) {
    const Range slice = vocabulary_range(vocabulary_, plan_.tp, r);
    const TensorView theirs =
        TensorView::matrix(all + size_t(r) * count * width, DType::kFloat32, rows, slice_width_);
    backend_.copy(stream, theirs.col_range(0, slice.size()),
                  whole.col_range(slice.begin, slice.end));
  }
  return whole;
}

/// Every rank takes an equal share of the rows. Shares are padded by overlapping the last rows, so
/// that all contributions have one size and land where they belong even if computed twice.
Range Picker::share_of(int rank, size_t count) const {
  const auto tp = int64_t(plan_.tp), rows = int64_t(count);
  const int64_t share = (rows + tp - 1) / tp;
  const int64_t first = std::min(rank * share, rows - share);
  return {first, first + share};
}

void Picker::pick_whole(Stream& stream, const TensorView& logits, size_t begin, size_t count) {
  const TensorView rows = gather_rows(stream, logits, count);
  const Range mine = share_of(plan_.rank, count);
  const size_t first = begin + size_t(mine.begin), share = size_t(mine.size());
  const size_t width = size_t(1 + max_logprobs_);
  backend_.pick_full(
      stream, {.logits = rows.row_range(mine.begin, mine.end),
               .params = std::span(filtered_.params).subspan(first, share),
               .scratch = TensorView::matrix(scratch_->data(), DType::kFloat32, int64_t(share),
                                             2 * int64_t(vocabulary_)),
               .picks = std::span(filtered_.picks).subspan(first, share),
               .logprobs = std::span(logprobs_).subspan(first * width, share * width),
               .max_logprobs = std::max(max_logprobs_, 0)});
}

void Picker::exchange_shares(Stream& stream, size_t begin, size_t count) {
  const Range mine = share_of(plan_.rank, count);
  const auto share = size_t(mine.size());
  const auto exchange = [&]<typename T>(std::vector<T>& all, std::vector<T>& gathered,
                                        size_t per_row) {
    communicator_.all_gather(
        stream, bytes_of(all.data() + (begin + size_t(mine.begin)) * per_row, share * per_row),
        writable_bytes_of(gathered.data(), size_t(plan_.tp) * share * per_row));
    cpu::CpuStream& self = stream.host();
    if (self.index() == 0) {
      for (int r = 0; r < plan_.tp; ++r) {
        const size_t to = begin + size_t(share_of(r, count).begin);
        std::copy_n(gathered.begin() + ptrdiff_t(size_t(r) * share * per_row), share * per_row,
                    all.begin() + ptrdiff_t(to * per_row));
      }
    }
    self.barrier();
  };
  exchange(filtered_.picks, bids_, 1);
  if (max_logprobs_ >= 0) exchange(logprobs_, gathered_logprobs_, size_t(1 + max_logprobs_));
}

void Picker::deliver() {
  for (Group* group : {&plain_, &filtered_}) {
    for (size_t i = 0; i < group->requests.size() && group->requests[i].ranked != nullptr; ++i) {
      const auto first = group->rankings.begin() + ptrdiff_t(i * rank_count_);
      group->requests[i].ranked->assign(first, first + ptrdiff_t(rank_count_));
    }
  }
  for (size_t i = 0; i < plain_.requests.size(); ++i) *plain_.requests[i].pick = plain_.picks[i];
  for (size_t i = 0; i < filtered_.requests.size(); ++i) {
    const PickRequest& request = filtered_.requests[i];
    *request.pick = filtered_.picks[i];
    if (request.logprobs == nullptr) continue;
    const auto first = logprobs_.begin() + ptrdiff_t(i * size_t(1 + max_logprobs_));
    request.logprobs->assign(first, first + 1 + request.params.logprobs);
  }
}

}  // namespace convoke
