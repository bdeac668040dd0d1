#include "tests/support/heads_fixture.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"
#include "tests/support/checkout.h"

namespace convoke::testing {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

const fs::path kGolden = checkout() / "tests/golden";

GoldenBest best_of(const json& value) {
  return {value.at("ids").get<std::vector<int32_t>>(),
          value.at("scores").get<std::vector<float>>()};
}

GoldenHead::Step step_of(const json& value) {
  GoldenHead::Step step;
  value.at("feature_begin").get_to(step.feature_begin);
  value.at("tokens").get_to(step.tokens);
  step.root = best_of(value.at("root"));
  for (const json& node : value.at("tree")) {
    step.tree.push_back({node.at("parent"), node.at("token"), best_of(node)});
  }
  return step;
}

/// Features as the target sends them: one matrix.
class FeatureMatrix {
 public:
  FeatureMatrix(const std::vector<std::vector<float>>& rows, bool bfloat16) {
    const auto cols = int64_t(rows.front().size());
    for (const auto& row : rows) {
      floats_.insert(floats_.end(), row.begin(), row.end());
      for (float value : row) narrow_.push_back(float_to_bf16(value));
    }
    view_ = bfloat16
                ? TensorView::matrix(narrow_.data(), DType::kBFloat16, int64_t(rows.size()), cols)
                : TensorView::matrix(floats_.data(), DType::kFloat32, int64_t(rows.size()), cols);
  }
  const TensorView& view() const { return view_; }

 private:
  std::vector<float> floats_;
  std::vector<uint16_t> narrow_;
  TensorView view_;
};

void keep(Trace& trace, std::span<const RankedToken> children) {
  trace.emplace_back(children.begin(), children.end());
}

void run_step(BranchModel& model, const GoldenHead& golden, const GoldenHead::Step& step,
              const TensorView& features, const RunOptions& options, Trace& trace) {
  const auto tokens = std::span(golden.tokens).first(size_t(step.tokens));
  const int32_t features_end = step.tokens - 1;
  for (int32_t begin = step.feature_begin; begin < features_end; begin += options.chunk) {
    const int32_t end = std::min(begin + options.chunk, features_end);
    const TensorView part = features.row_range(begin, end);
    const BranchModel::Committed committed{
        .place = options.place,
        .tokens = tokens,
        .feature_begin = begin,
        .features = options.instead ? options.instead(part) : part,
        .rank = end == features_end};
    model.absorb({&committed, 1}, options.count);
  }
  keep(trace, model.children(0));

  // Slots in no order, and not the same from step to step.
  const auto nodes = int(step.tree.size());
  std::vector<int32_t> slot;
  for (int n = 0; n < nodes; ++n) slot.push_back(int32_t((n * 7 + step.tokens * 3) % 31));
  std::vector<std::vector<int32_t>> path(static_cast<size_t>(nodes)), path_tokens(path);
  std::vector<std::vector<int>> levels;
  for (int n = 0; n < nodes; ++n) {
    const int parent = step.tree[size_t(n)].parent;
    if (parent >= 0) {
      path[size_t(n)] = path[size_t(parent)];
      path_tokens[size_t(n)] = path_tokens[size_t(parent)];
    }
    path[size_t(n)].push_back(slot[size_t(n)]);
    path_tokens[size_t(n)].push_back(step.tree[size_t(n)].token);
    levels.resize(std::max(levels.size(), path[size_t(n)].size()));
    levels[path[size_t(n)].size() - 1].push_back(n);
  }
  Trace of_node(static_cast<size_t>(nodes));
  for (const std::vector<int>& level : levels) {
    for (size_t first = 0; first < level.size(); first += size_t(options.rows_per_expand)) {
      const size_t last = std::min(level.size(), first + size_t(options.rows_per_expand));
      std::vector<BranchModel::Row> rows;
      for (size_t i = first; i < last; ++i) {
        const auto n = size_t(level[i]);
        rows.push_back({options.place, step.tree[n].token, path[n], path_tokens[n]});
      }
      model.expand(rows, options.count);
      for (size_t i = first; i < last; ++i) {
        const auto best = model.children(int(i - first));
        of_node[size_t(level[i])].assign(best.begin(), best.end());
      }
    }
  }
  trace.insert(trace.end(), of_node.begin(), of_node.end());
}

}  // namespace

GoldenHead load_golden_head(const std::string& name) {
  GoldenHead golden;
  golden.name = name;
  golden.method = name.substr(0, name.find('-'));
  golden.directory = kGolden / "heads" / name;
  std::ifstream file(golden.directory / "golden.json");
  if (!file) throw_error(ErrorKind::kModel, "{}: no golden.json", golden.directory.string());
  const json value = json::parse(file);
  golden.target = kGolden / "models" / value.at("target").get<std::string>();
  value.at("features").get_to(golden.features);
  value.at("bfloat16_error").get_to(golden.bfloat16_error);
  if (golden.method == "medusa") {
    for (const json& head : value.at("heads")) {
      auto& rows = golden.heads.emplace_back();
      for (const json& row : head) rows.push_back(best_of(row));
    }
    return golden;
  }
  value.at("tokens").get_to(golden.tokens);
  for (const json& step : value.at("steps")) golden.steps.push_back(step_of(step));
  return golden;
}

std::vector<std::string> golden_head_names(const std::vector<std::string>& methods) {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kGolden / "heads")) {
    const std::string name = entry.path().filename().string();
    const std::string method = name.substr(0, name.find('-'));
    if (std::ranges::find(methods, method) != methods.end()) names.push_back(name);
  }
  std::ranges::sort(names);
  return names;
}

DraftContext golden_context(const GoldenHead& golden, const HeadShape& shape) {
  DraftContext context;
  context.model = golden.target;
  context.vocabulary = ModelConfig::load(golden.target).vocabulary;
  context.dtype = shape.dtype;
  context.float16 = shape.float16;
  context.max_sequences = 3;
  context.max_model_len = 61;
  return context;
}

OpenHead::OpenHead(const GoldenHead& golden, const HeadShape& shape)
    : OpenHead(golden, shape,
               cpu::make_cpu_backend(
                   {.threads = shape.threads,
                    .isa = shape.isa == "auto" ? cpu::best_isa() : cpu::parse_isa(shape.isa)})) {}

OpenHead::OpenHead(const GoldenHead& golden, const HeadShape& shape,
                   std::unique_ptr<Backend> its_backend, const SharedWeights& shared)
    : backend(std::move(its_backend)) {
  DraftContext context = golden_context(golden, shape);
  context.shared = shared;
  model = open_branch_model(golden.method, golden.directory.string(), context,
                            {.scratch_slots = 31,
                             .max_rows = shape.max_rows,
                             .shared_noise = shape.shared_noise,
                             .float8 = shape.float8},
                            *backend);
}

Trace run_golden(BranchModel& model, const GoldenHead& golden, const RunOptions& options) {
  Trace trace;
  const FeatureMatrix features(golden.features, options.bfloat16_features);
  model.open(options.place, options.sampling, golden.steps.front().tokens - 1);
  for (const GoldenHead::Step& step : golden.steps) {
    run_step(model, golden, step, features.view(), options, trace);
  }
  model.close(options.place);
  return trace;
}

void expect_like(std::span<const RankedToken> ours, const GoldenBest& golden, double tolerance,
                 const std::string& where) {
  ASSERT_EQ(ours.size(), golden.ids.size()) << where;
  double largest = 0;
  for (const float score : golden.scores) largest = std::max(largest, std::abs(double(score)));
  const double allowed = tolerance * largest;
  for (size_t i = 0; i < ours.size(); ++i) {
    EXPECT_NEAR(ours[i].score, golden.scores[i], allowed) << where << ", rank " << i;
    const auto at = std::ranges::find(golden.ids, ours[i].token);
    // The last few may change places with what the golden list leaves out.
    if (at == golden.ids.end()) {
      EXPECT_LE(golden.scores[i] - golden.scores.back(), 2 * allowed) << where << ", rank " << i;
      continue;
    }
    EXPECT_NEAR(ours[i].score, golden.scores[size_t(at - golden.ids.begin())], allowed)
        << where << ", token " << ours[i].token;
  }
}

void expect_golden(const Trace& trace, const GoldenHead& golden, double tolerance) {
  size_t at = 0;
  for (size_t s = 0; s < golden.steps.size(); ++s) {
    const std::string where = golden.name + " step " + std::to_string(s);
    ASSERT_LT(at, trace.size());
    expect_like(trace[at++], golden.steps[s].root, tolerance, where + " root");
    for (size_t n = 0; n < golden.steps[s].tree.size(); ++n) {
      ASSERT_LT(at, trace.size());
      expect_like(trace[at++], golden.steps[s].tree[n].best, tolerance,
                  where + " node " + std::to_string(n));
    }
  }
  EXPECT_EQ(at, trace.size());
}

}  // namespace convoke::testing
