#include "runtime/lookahead_table.h"

#include <cmath>
#include <random>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"
#include "runtime/model_files/json_file.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {
namespace {

constexpr size_t kConfigLimit = size_t{1} << 20;
constexpr const char* kTensor = "lookahead.weight";

float element(const TensorView& view, int64_t row, int64_t col) {
  if (view.dtype == DType::kFloat32) return view.row<float>(row)[col];
  const uint16_t bits = view.row<uint16_t>(row)[col];
  return view.dtype == DType::kBFloat16 ? bf16_to_float(bits) : fp16_to_float(bits);
}

const TensorInfo& find_tensor(const std::vector<TensorInfo>& tensors,
                              const std::filesystem::path& directory) {
  const auto found = std::ranges::find(tensors, kTensor, &TensorInfo::name);
  if (found == tensors.end()) {
    throw_error(ErrorKind::kModel, "{}: there is no tensor '{}'; is this a PaSS drafter?",
                directory.string(), kTensor);
  }
  return *found;
}

}  // namespace

int lookahead_count(const std::filesystem::path& directory, const ModelConfig& target) {
  const std::string file = (directory / "config.json").string();
  const nlohmann::json json = parse_json(read_text_file(file, kConfigLimit), file);
  if (!json.is_object()) throw_error(ErrorKind::kModel, "{}: not a JSON object", file);
  std::vector<std::string> problems;
  JsonObject config(json, file, problems);
  const std::string drafter = config.text("drafter", "");
  if (drafter != "pass") {
    config.problem("drafter", "is '{}', expected 'pass': this directory holds another drafter",
                   drafter);
  }
  const int64_t count = config.integer("lookahead_tokens", {}, 1, kMaxLookahead);
  const int64_t hidden = config.integer("hidden_size", {}, 1, int64_t(1) << 20);
  if (problems.empty() && hidden != target.hidden) {
    config.problem("hidden_size",
                   "is {}, but the target's is {}: the embeddings were trained for another model",
                   hidden, target.hidden);
  }
  throw_problems(problems);
  return int(count);
}

LookaheadTable load_lookahead(const std::filesystem::path& directory, const ModelConfig& target) {
  LookaheadTable table{.count = lookahead_count(directory, target), .hidden = target.hidden};
  const auto source = open_checkpoint(directory);
  const std::vector<TensorInfo> tensors = source->list();
  const TensorInfo& info = find_tensor(tensors, directory);
  if (info.shape != std::vector<int64_t>{table.count, table.hidden}) {
    throw_error(ErrorKind::kModel, "{}: tensor '{}' has shape [{}], expected [{}, {}]", info.file,
                kTensor, fmt::join(info.shape, ", "), table.count, table.hidden);
  }
  if (info.dtype != DType::kFloat32 && info.dtype != DType::kBFloat16 &&
      info.dtype != DType::kFloat16) {
    throw_error(ErrorKind::kModel,
                "{}: tensor '{}' has dtype {}, expected float32, bfloat16 or float16", info.file,
                kTensor, dtype_name(info.dtype));
  }
  const TensorView view = source->tensor(kTensor);
  table.values.reserve(size_t(table.count) * size_t(table.hidden));
  for (int64_t r = 0; r < view.rows; ++r) {
    for (int64_t c = 0; c < view.cols; ++c) {
      const float value = element(view, r, c);
      if (!std::isfinite(value)) {
        throw_error(ErrorKind::kModel, "{}: tensor '{}' has the value {} at [{}, {}]", info.file,
                    kTensor, value, r, c);
      }
      table.values.push_back(value);
    }
  }
  return table;
}

LookaheadTable random_lookahead(int count, int hidden) {
  LookaheadTable table{.count = count, .hidden = hidden};
  std::mt19937 random(1);
  for (int64_t i = 0; i < int64_t(count) * hidden; ++i) {
    // Not a standard distribution: their algorithms differ between libraries.
    table.values.push_back((float(random() >> 8) / float(1 << 24) - 0.5f) * 0.05f);
  }
  return table;
}

}  // namespace convoke
