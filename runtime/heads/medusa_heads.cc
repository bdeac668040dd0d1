#include "runtime/heads/medusa_heads.h"

#include <algorithm>
#include <limits>

#include "kernels/check.h"
#include "kernels/copy_row.h"
#include "runtime/weights.h"
#include "runtime/workspace_layout.h"

namespace convoke {
namespace {

std::string layer_name(const std::string& prefix, int head, int layer) {
  return fmt::format("{}{}.{}.linear", prefix, head, layer);
}

std::string output_name(const MedusaHeads::Extents& extents, int head) {
  return fmt::format("{}{}.{}.weight", extents.prefix, head, extents.layers);
}

}  // namespace

MedusaHeads::Extents MedusaHeads::extents(const HeadConfig& config, const TensorSource* source) {
  Extents extents{.heads = config.medusa_heads, .layers = config.medusa_layers};
  if (source == nullptr) return extents;
  if (source->contains(layer_name("medusa_head.", 0, 0) + ".weight")) {
    extents.prefix = "medusa_head.";
  }
  int heads = 0, layers = 0;
  while (source->contains(layer_name(extents.prefix, heads, 0) + ".weight")) ++heads;
  while (source->contains(layer_name(extents.prefix, 0, layers) + ".weight")) ++layers;
  extents.heads = std::max({extents.heads, heads, 1});
  if (extents.layers == 0) extents.layers = std::max(layers, 1);
  return extents;
}

std::vector<HeadTensor> MedusaHeads::tensors(const HeadConfig& config, const Extents& extents) {
  const int64_t hidden = config.target_hidden;
  std::vector<HeadTensor> list;
  for (int head = 0; head < extents.heads; ++head) {
    for (int layer = 0; layer < extents.layers; ++layer) {
      const std::string name = layer_name(extents.prefix, head, layer);
      list.push_back({name + ".weight", {hidden, hidden}});
      list.push_back({name + ".bias", {hidden}});
    }
    list.push_back({output_name(extents, head), {config.vocabulary, hidden}});
  }
  return list;
}

MedusaHeads::MedusaHeads(Backend& backend, const HeadConfig& config, const TensorSource& head,
                         const Options& options)
    : backend_(backend), config_(config), options_(options) {
  const Extents found = extents(config, &head);
  check_head_tensors(tensors(config, found), head, config);
  heads_ = found.heads;
  layers_ = found.layers;
  const DType stored = head.tensor(layer_name(found.prefix, 0, 0) + ".weight").dtype;
  load(head, found,
       head_storage(head_dtype(options.dtype, stored, options.float16), options.float8));
  lay_out();
}

void MedusaHeads::load(const TensorSource& head, const Extents& extents, DType dtype) {
  const auto weight = [&](int h, int layer) {
    return head.tensor(layer_name(extents.prefix, h, layer) + ".weight");
  };
  const auto bias = [&](int h, int layer) {
    return to_floats(head.tensor(layer_name(extents.prefix, h, layer) + ".bias"));
  };
  MatrixSource first{.dtype = dtype};
  std::vector<float> first_bias;
  for (int h = 0; h < heads_; ++h) {
    first.parts.push_back(weight(h, 0));
    const std::vector<float> b = bias(h, 0);
    first_bias.insert(first_bias.end(), b.begin(), b.end());
    outputs_.push_back(
        backend_.pack({.parts = {head.tensor(output_name(extents, h))}, .dtype = dtype}));
  }
  first_ = backend_.pack(first);
  first_bias_ = {backend_, first_bias};
  for (int layer = 1; layer < layers_; ++layer) {
    for (int h = 0; h < heads_; ++h) {
      more_.push_back({backend_.pack({.parts = {weight(h, layer)}, .dtype = dtype}),
                       FloatArray(backend_, bias(h, layer))});
    }
  }
}

void MedusaHeads::lay_out() {
  const int64_t hidden = config_.target_hidden, all = heads_ * hidden;
  const int64_t rows = options_.max_rows;
  const DType activation = first_->activation_dtype();
  const auto place = [&](WorkspaceLayout layout) {
    features_ = layout.matrix(DType::kFloat32, rows, hidden);
    input_ = layout.matrix(activation, rows, hidden);
    gate_ = layout.matrix(DType::kFloat32, rows, 2 * all);
    silu_ = layout.matrix(DType::kFloat32, rows, all);
    x_ = layout.matrix(DType::kFloat32, heads_ * rows, hidden);
    narrow_ = layout.matrix(activation, heads_ * rows, hidden);
    logits_ = layout.matrix(DType::kFloat32, heads_ * rows, config_.vocabulary);
    return layout.used();
  };
  memory_ = backend_.allocate(place(WorkspaceLayout(nullptr)));
  place(WorkspaceLayout(memory_->data()));
  host_features_ = features_;
  if (!backend_.shares_host_memory()) {
    host_feature_memory_ =
        backend_.allocate_host(size_t(rows * features_.row_stride) * sizeof(float));
    host_features_.data = host_feature_memory_->data();
  }
  // silu_mul multiplies what it has activated with its right half.
  std::vector<float> ones(size_t(rows * all), 1.0f);
  const TensorView from = TensorView::matrix(ones.data(), DType::kFloat32, rows, all);
  backend_.run([&](Stream& stream) { backend_.copy(stream, from, gate_.col_range(all, 2 * all)); });
  const auto logit_rows = int(heads_ * rows);
  backend_.reserve(
      {.rows = logit_rows, .logit_rows = logit_rows, .vocabulary = config_.vocabulary});
}

/// Features and parameters of the rows, and of those that fill the pass up.
void MedusaHeads::stage(std::span<const Row> rows) {
  for (int r = 0; r < padded_; ++r) {
    float* const to = host_features_.row<float>(r);
    if (r >= rows_) {  // must reach nothing, and would show
      std::fill_n(to, host_features_.cols, std::numeric_limits<float>::quiet_NaN());
      continue;
    }
    const FeatureRow& feature = rows[size_t(r)].feature;
    copy_row(feature.data, feature.dtype, to, DType::kFloat32, host_features_.cols);
  }
  params_.assign(size_t(heads_ * padded_), {});
  for (int head = 0; head < heads_; ++head) {
    for (int r = 0; r < rows_; ++r) {
      PickRow& params = params_[size_t(head * padded_ + r)];
      params = rows[size_t(r)].params;
      params.position += head;
    }
  }
}

void MedusaHeads::rank(std::span<const Row> rows, int count) {
  rows_ = int(rows.size());
  count_ = std::min(count, config_.vocabulary);
  CONVOKE_CHECK_LE(rows_, options_.max_rows);
  CONVOKE_CHECK(count_ >= 1 && count_ <= kMaxRanked);
  if (rows.empty()) return;
  padded_ = std::min(backend_.pass_rows(rows_), options_.max_rows);
  stage(rows);
  ranked_.resize(params_.size() * size_t(count_));
  PassArrays arrays;
  arrays.picks[0] = params_;
  backend_.run(arrays, [&](Stream& stream) { run(stream, padded_); });
}

void MedusaHeads::run(Stream& stream, int rows) {
  const TensorView features = features_.row_range(0, rows);
  if (host_features_.data != features_.data) {
    backend_.copy(stream, host_features_.row_range(0, rows), features);
  }
  backend_.convert(stream, features, input_.row_range(0, rows));
  for (int layer = 0; layer < layers_; ++layer) {
    run_layer(stream, layer, rows);
    add_residual(stream, layer, rows);
  }
  for (int head = 0; head < heads_; ++head) {
    backend_.matmul(stream, {.x = head_rows(narrow_, head, rows),
                             .weights = outputs_[size_t(head)].get(),
                             .y = head_rows(logits_, head, rows)});
  }
  backend_.rank(stream, {.logits = logits_.row_range(0, int64_t(heads_) * rows),
                         .params = params_,
                         .noise = options_.shared_noise,
                         .count = count_,
                         .ranked = ranked_});
}

// silu_ = silu(W x + b) of all heads.
void MedusaHeads::run_layer(Stream& stream, int layer, int rows) {
  const int64_t hidden = config_.target_hidden, all = heads_ * hidden;
  const TensorView gate = gate_.row_range(0, rows);
  if (layer == 0) {
    backend_.matmul(stream, {.x = input_.row_range(0, rows),
                             .weights = first_.get(),
                             .bias = first_bias_.data(),
                             .y = gate.col_range(0, all)});
  } else {
    for (int head = 0; head < heads_; ++head) {
      const Layer& own = more_[size_t((layer - 1) * heads_ + head)];
      backend_.matmul(stream, {.x = head_rows(narrow_, head, rows),
                               .weights = own.weights.get(),
                               .bias = own.bias.data(),
                               .y = gate.col_range(head * hidden, (head + 1) * hidden)});
    }
  }
  backend_.silu_mul(stream, {.x = gate, .y = silu_.row_range(0, rows)});
}

// x_k += silu_k; before the first layer all x_k are the features.
void MedusaHeads::add_residual(Stream& stream, int layer, int rows) {
  const int64_t hidden = config_.target_hidden;
  for (int head = 0; head < heads_; ++head) {
    const TensorView x = head_rows(x_, head, rows);
    if (layer == 0) backend_.copy_rows(stream, {.x = features_.row_range(0, rows), .y = x});
    const TensorView more = silu_.row_range(0, rows).col_range(head * hidden, (head + 1) * hidden);
    backend_.copy_rows(stream, {.x = more, .y = x, .accumulate = true});
  }
  const int64_t all = int64_t(heads_) * rows;
  backend_.convert(stream, x_.row_range(0, all), narrow_.row_range(0, all));
}

std::span<const RankedToken> MedusaHeads::ranked(int row, int head) const {
  CONVOKE_CHECK(row >= 0 && row < rows_ && head >= 0 && head < heads_);
  auto best =
      std::span(ranked_).subspan(size_t(head * padded_ + row) * size_t(count_), size_t(count_));
  while (!best.empty() && best.back().token < 0) best = best.first(best.size() - 1);  // banned ones
  return best;
}

}  // namespace convoke
