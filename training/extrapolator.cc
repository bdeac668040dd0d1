#include "training/extrapolator.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <cmath>

#include "kernels/check.h"

namespace convoke::training {
namespace {

/// Attention of the steps of an unrolled pass: to the true entries of the first one, and to the
/// own guesses of each later one, which no other entry sees.
class UnrolledAttention {
 public:
  UnrolledAttention(int64_t entries, torch::Device device)
      : mask_(causal_mask(entries, 0, device)) {}

  /// [batch, heads, rows, head_dim] of the first `rows` entries.
  torch::Tensor operator()(const QueriesKeysValues& qkv) {
    const int64_t rows = qkv.q.size(2);
    if (!keys_.defined()) {
      keys_ = qkv.k;
      values_ = qkv.v;
      return attention_values((attention_scores(qkv.q, keys_) + mask_).softmax(-1), values_);
    }
    const int64_t group = qkv.q.size(1) / qkv.k.size(1);
    own_.push_back({qkv.k.repeat_interleave(group, 1), qkv.v.repeat_interleave(group, 1)});
    std::vector<torch::Tensor> scores{attention_scores(qkv.q, keys_) + mask_.slice(0, 0, rows)};
    const double scale = 1.0 / std::sqrt(double(qkv.q.size(3)));
    for (const Own& own : own_) {
      scores.push_back((qkv.q * own.k.slice(2, 0, rows)).sum(-1, true) * scale);
    }
    const torch::Tensor shares = torch::cat(scores, -1).softmax(-1);
    const int64_t entries = keys_.size(2);
    torch::Tensor y = attention_values(shares.slice(-1, 0, entries), values_);
    for (size_t i = 0; i < own_.size(); ++i) {
      const int64_t column = entries + int64_t(i);
      y = y + shares.slice(-1, column, column + 1) * own_[i].v.slice(2, 0, rows);
    }
    return y;
  }

 private:
  struct Own {
    torch::Tensor k, v;  ///< [batch, heads, rows, head_dim]
  };
  torch::Tensor mask_, keys_, values_;
  std::vector<Own> own_;
};

// What of the token enters an EAGLE head at first, relative to the feature's size.
constexpr double kTokenShare = 0.5;

double root_mean_square(const torch::Tensor& x) {
  return x.to(torch::kFloat32).square().mean().sqrt().item<double>();
}

torch::Tensor column_tensor(const std::vector<int64_t>& columns, torch::Device device) {
  if (columns.empty()) return {};
  return torch::tensor(columns, torch::kInt64).to(device);
}

nlohmann::json layer_config(const ModelConfig& target, int intermediate, int draft_vocabulary) {
  nlohmann::json json = {
      {"model_type", "llama"},
      {"hidden_act", "silu"},
      {"hidden_size", target.hidden},
      {"intermediate_size", intermediate > 0 ? intermediate : target.intermediate},
      {"num_hidden_layers", 1},
      {"num_attention_heads", target.heads},
      {"num_key_value_heads", target.kv_heads},
      {"head_dim", target.head_dim},
      {"max_position_embeddings", target.max_positions},
      {"rms_norm_eps", target.rms_epsilon},
      {"rope_theta", target.rope_theta},
      {"vocab_size", target.vocabulary},
  };
  if (draft_vocabulary > 0 && draft_vocabulary < target.vocabulary) {
    json["draft_vocab_size"] = draft_vocabulary;
  }
  return json;
}

}  // namespace

Extrapolator::Extrapolator(const TargetModel& target, const nlohmann::json& json, HeadKind kind,
                           const std::vector<int64_t>& columns, const ExtrapolatorOptions& options)
    : target_(target),
      products_(target.products()),
      json_(json),
      config_(parse_head_config(kind, json.dump(), "config.json", target.config())),
      options_(options),
      columns_(column_tensor(columns, target.products().device)),
      rotary_(config_.layer, target.products().device) {
  CONVOKE_CHECK_EQ(int(columns.empty() ? config_.vocabulary : columns.size()),
                   config_.draft_vocabulary);
}

template <typename Use>
void Extrapolator::run_steps(const torch::Tensor& tokens, const torch::Tensor& features, int steps,
                             Use&& use) {
  narrow();
  const int64_t entries = tokens.size(1) - 1;
  const torch::Tensor embedded = target_.embed(tokens.slice(1, 1));
  const torch::Tensor place = torch::arange(entries, tokens.options());
  UnrolledAttention attention(entries, products_.device);
  torch::Tensor x = fuse(features.slice(1, 0, entries));
  for (int step = 0; step < steps && entries > step; ++step) {
    const int64_t rows = entries - step;
    const Entry entry = enter(embedded.slice(1, step), x.slice(1, 0, rows));
    const QueriesKeysValues qkv = project(products_, narrow_layer_, config_.layer, rotary_,
                                          entry.attention_input, place.slice(0, 0, rows) + step);
    x = entry.residual + products_(merge_heads(attention(qkv)), narrow_layer_.o);
    x = x + mlp(products_, narrow_layer_,
                rms_norm(x, narrow_layer_.post_norm, config_.layer.rms_epsilon));
    use(step, x, logits_of(x));
  }
}

/// What the target says after the tokens that step `step` ends with: [batch, rows, vocabulary].
torch::Tensor Extrapolator::label_logits(const TargetModel::Pass& pass, int step,
                                         int64_t rows) const {
  const torch::NoGradGuard no_gradients;
  return target_.logits(pass.hidden.slice(1, step + 1, step + 1 + rows));
}

torch::Tensor Extrapolator::loss(const Batch& batch, uint64_t noise_seed) {
  const TargetModel::Pass pass = target_.run(batch.tokens, config_.feature_layers);
  torch::Tensor features = features_of(pass);
  if (config_.kind == HeadKind::kEagle && options_.feature_noise > 0) {
    torch::Generator generator = seeded_generator(noise_seed, products_.device);
    const torch::Tensor uniform = torch::empty_like(features).uniform_(-0.5, 0.5, generator);
    features = features + uniform * (options_.feature_noise * 512.0 / double(features.size(1)));
  }
  torch::Tensor labels;  // [batch, rows - 1, columns]: distributions at positions 1, 2, ...
  {
    const torch::NoGradGuard no_gradients;
    torch::Tensor logits = label_logits(pass, 0, batch.tokens.size(1) - 1);
    if (columns_.defined()) logits = logits.index_select(-1, columns_);
    labels = logits.softmax(-1);
  }
  torch::Tensor total = torch::zeros({}, torch::TensorOptions(products_.device));
  run_steps(batch.tokens, features, options_.unroll,
            [&](int step, const torch::Tensor& x, const torch::Tensor& logits) {
              const torch::Tensor valid = valid_entries(batch, step + 1);
              const double weight = std::pow(options_.depth_decay, step);
              total = total + weight * options_.token_weight *
                                  soft_cross_entropy(logits, labels.slice(1, step), valid);
              if (config_.kind != HeadKind::kEagle || options_.feature_weight == 0) return;
              total = total + weight * options_.feature_weight *
                                  feature_distance(x, pass.hidden.slice(1, step + 1), valid);
            });
  return total;
}

void Extrapolator::score(const Batch& batch, uint64_t noise_seed, DraftScores& scores) {
  const torch::NoGradGuard no_gradients;
  const TargetModel::Pass pass = target_.run(batch.tokens, config_.feature_layers);
  run_steps(batch.tokens, features_of(pass), std::max(options_.unroll, 5),
            [&](int step, const torch::Tensor& x, const torch::Tensor& logits) {
              const torch::Tensor valid = valid_entries(batch, step + 1);
              const torch::Tensor target = label_logits(pass, step, x.size(1));
              scores.add(step, logits.index({valid}), target.index({valid}), columns_,
                         noise_seed + uint64_t(step));
            });
}

std::vector<Extrapolator::Step> Extrapolator::unroll(const torch::Tensor& tokens,
                                                     const torch::Tensor& features, int steps) {
  const torch::NoGradGuard no_gradients;
  std::vector<Step> made;
  run_steps(tokens, features, steps, [&](int, const torch::Tensor& x, const torch::Tensor& logits) {
    made.push_back({x, logits});
  });
  return made;
}

std::vector<Parameter> Extrapolator::exported() const {
  std::vector<Parameter> tensors = parameters_;
  if (columns_.defined()) {
    for (Parameter& p : vocabulary_tensors(columns_, config_.vocabulary)) tensors.push_back(p);
  }
  return tensors;
}

EagleObjective::EagleObjective(const TargetModel& target, const nlohmann::json& json,
                               const std::vector<int64_t>& columns,
                               const ExtrapolatorOptions& options, uint64_t seed)
    : Extrapolator(target, json, HeadKind::kEagle, columns, options) {
  const int64_t hidden = config_.layer.hidden;
  ParameterMaker maker(products_.device, seed);
  // At first the feature goes through as it is, and the token with a share of its size: tables of
  // embeddings are often ten times smaller than what follows the final norm.
  const double size = root_mean_square(target.final_norm()) / root_mean_square(target.embedding());
  torch::Tensor fc = torch::zeros({hidden, 2 * hidden});
  fc.slice(1, 0, hidden)
      .copy_(torch::randn({hidden, hidden}, seeded_generator(seed, torch::kCPU)) *
             (kTokenShare * size / std::sqrt(double(hidden))));
  fc.slice(1, hidden).copy_(torch::eye(hidden));
  fc_ = maker.copy("fc.weight", fc);
  layer_ = make_layer(maker, config_, "layers.0.", hidden);
  parameters_ = maker.take();
  lm_head_ = columns_.defined() ? target.lm_head().index_select(0, columns_) : target.lm_head();
}

nlohmann::json EagleObjective::make_config(const ModelConfig& target, int intermediate,
                                           int draft_vocabulary) {
  nlohmann::json json = layer_config(target, intermediate, draft_vocabulary);
  json["drafter"] = "eagle";
  json["architectures"] = {"LlamaForCausalLM"};
  json["bias"] = false;
  return json;
}

void EagleObjective::narrow() {
  narrow_layer_ = narrow_layer(products_, layer_);
  narrow_fc_ = products_.narrow(fc_);
}

Extrapolator::Entry EagleObjective::enter(const torch::Tensor& embedded,
                                          const torch::Tensor& carried) {
  const torch::Tensor x = products_(torch::cat({embedded, carried}, -1), narrow_fc_);
  return {x, x};  // layer 0 has no norm before its attention
}

torch::Tensor EagleObjective::logits_of(const torch::Tensor& x) {
  return products_(x, lm_head_);
}

Eagle3Objective::Eagle3Objective(const TargetModel& target, const nlohmann::json& json,
                                 const std::vector<int64_t>& columns,
                                 const ExtrapolatorOptions& options, uint64_t seed,
                                 const torch::Tensor& sample)
    : Extrapolator(target, json, HeadKind::kEagle3, columns, options) {
  const int64_t hidden = config_.layer.hidden;
  const auto layers = int64_t(config_.feature_layers.size());
  ParameterMaker maker(products_.device, seed);
  // At first the highest of the states goes through, with a little of the lower ones. They are
  // brought to size one: residual streams may be dozens of times larger than what a layer adds.
  torch::Tensor fc = torch::randn({hidden, layers * hidden}, seeded_generator(seed, torch::kCPU)) *
                     (0.1 / std::sqrt(double(hidden)));
  fc.slice(1, (layers - 1) * hidden).copy_(torch::eye(hidden));
  double size = 1.0;  // of the states together
  if (sample.defined()) {
    const TargetModel::Pass pass = target.run(sample, config_.feature_layers);
    for (int64_t i = 0; i < layers; ++i) {
      // The median of the rows: first tokens often have states far larger than all others.
      const torch::Tensor sizes = pass.states[size_t(i)].square().mean(-1).sqrt();
      const auto median = sizes.flatten().median().item<double>();
      fc.slice(1, i * hidden, (i + 1) * hidden).div_(median);
      size = std::max(size, median);
    }
  }
  fc_ = maker.copy("fc.weight", fc);
  layer_ = make_layer(maker, config_, "midlayer.", 2 * hidden);
  input_norm_ = maker.constant("midlayer.input_layernorm.weight", {hidden}, 1.0);
  hidden_norm_ = maker.constant("midlayer.hidden_norm.weight", {hidden}, 1.0);
  final_norm_ = maker.copy("norm.weight", target.final_norm());
  lm_head_ =
      maker.copy("lm_head.weight", columns_.defined() ? target.lm_head().index_select(0, columns_)
                                                      : target.lm_head());
  parameters_ = maker.take();
  // Large states are multiplied by small weights, which have to move in small steps.
  parameters_.front().rate = 1.0 / size;
}

nlohmann::json Eagle3Objective::make_config(const ModelConfig& target, int intermediate,
                                            int draft_vocabulary,
                                            const std::vector<int>& feature_layers) {
  nlohmann::json json = layer_config(target, intermediate, draft_vocabulary);
  json["drafter"] = "eagle3";
  json["architectures"] = {"LlamaForCausalLMEagle3"};
  if (!feature_layers.empty()) json["eagle_aux_hidden_state_layer_ids"] = feature_layers;
  return json;
}

void Eagle3Objective::narrow() {
  narrow_layer_ = narrow_layer(products_, layer_);
  narrow_fc_ = products_.narrow(fc_);
  narrow_lm_head_ = products_.narrow(lm_head_);
}

torch::Tensor Eagle3Objective::features_of(const TargetModel::Pass& pass) const {
  return torch::cat(pass.states, -1);
}

torch::Tensor Eagle3Objective::fuse(const torch::Tensor& features) {
  return products_(features, narrow_fc_);
}

Extrapolator::Entry Eagle3Objective::enter(const torch::Tensor& embedded,
                                           const torch::Tensor& carried) {
  const double epsilon = config_.layer.rms_epsilon;
  const torch::Tensor normed = rms_norm(carried, hidden_norm_, epsilon);
  return {.residual = config_.norm_before_residual ? normed : carried,
          .attention_input = torch::cat({rms_norm(embedded, input_norm_, epsilon), normed}, -1)};
}

torch::Tensor Eagle3Objective::logits_of(const torch::Tensor& x) {
  return products_(rms_norm(x, final_norm_, config_.layer.rms_epsilon), narrow_lm_head_);
}

}  // namespace convoke::training
