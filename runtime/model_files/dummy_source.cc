// Random weights: names and shapes become matrices of kernels/random_matrix.h.
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#include "kernels/check.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {
namespace {

/// FNV-1a: std::hash may differ between machines.
uint64_t hash_name(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

struct Distribution {
  float mean = 0.0f;
  float deviation = 0.0f;
};

/// Codes of 8 bits use most of their range (the largest value is 2.5 deviations off), and scales
/// make up for it.
constexpr float kCodeDeviation = 128.0f;
constexpr std::string_view kScaleSuffix = "_scale";

/// `inputs` is that of the matrix that the tensor is, or is the scale of.
Distribution distribution_of(const TensorInfo& info, int64_t inputs) {
  const float of_matrix = 1.0f / std::sqrt(static_cast<float>(inputs));
  if (info.dtype == DType::kFloat8E4M3) return {0.0f, kCodeDeviation};
  if (info.name.ends_with(kScaleSuffix)) {
    return {of_matrix / kCodeDeviation, 0.05f * of_matrix / kCodeDeviation};
  }
  if (info.shape.size() == 2) {
    // 1 / sqrt(fan-in): activations neither grow nor vanish through the layers.
    return {0.0f, of_matrix};
  }
  return info.name.ends_with(".bias") ? Distribution{0.0f, 0.02f} : Distribution{1.0f, 0.05f};
}

/// A tensor that is made once, when first asked for.
struct Made {
  std::once_flag once;
  std::unique_ptr<std::byte[]> data;
};

}  // namespace

struct DummySource::State {
  uint64_t seed = 0;
  std::vector<TensorInfo> infos;
  std::unordered_map<std::string, size_t> by_name;
  std::mutex mutex;  ///< guards `made` itself; the tensors in it are made outside the lock
  std::map<size_t, std::shared_ptr<Made>> made;

  std::shared_ptr<Made> slot(size_t index) {
    const std::lock_guard lock(mutex);
    auto& entry = made[index];
    if (!entry) entry = std::make_shared<Made>();
    return entry;
  }
  size_t index_of(const std::string& name) const;
  RandomMatrix matrix(size_t index) const;
};

DummySource::DummySource(const ModelConfig& config, uint64_t seed)
    : DummySource(expected_tensors(config), seed) {}

DummySource::DummySource(std::vector<TensorInfo> tensors, uint64_t seed)
    : state_(std::make_unique<State>()) {
  state_->seed = seed;
  state_->infos = std::move(tensors);
  for (size_t i = 0; i < state_->infos.size(); ++i) {
    state_->infos[i].file = "dummy weights";
    state_->by_name[state_->infos[i].name] = i;
  }
}

DummySource::~DummySource() = default;

std::vector<TensorInfo> DummySource::list() const {
  return state_->infos;
}

bool DummySource::contains(const std::string& name) const {
  return state_->by_name.count(name) != 0;
}

size_t DummySource::State::index_of(const std::string& name) const {
  const auto found = by_name.find(name);
  if (found == by_name.end()) {
    throw_error(ErrorKind::kModel, "dummy weights: tensor '{}' is missing", name);
  }
  return found->second;
}

RandomMatrix DummySource::State::matrix(size_t index) const {
  const TensorInfo& info = infos[index];
  RandomMatrix matrix{.seed = random_core::split_mix(seed ^ hash_name(info.name)),
                      .dtype = info.dtype,
                      .rows = info.shape.size() == 2 ? info.shape[0] : 1,
                      .cols = info.shape.back()};
  int64_t inputs = matrix.cols;
  if (info.name.ends_with(kScaleSuffix)) {
    const auto weight = by_name.find(info.name.substr(0, info.name.size() - kScaleSuffix.size()));
    if (weight != by_name.end()) inputs = infos[weight->second].shape.back();
  }
  const auto [mean, deviation] = distribution_of(info, inputs);
  matrix.mean = mean;
  matrix.deviation = deviation;
  return matrix;
}

std::optional<RandomMatrix> DummySource::recipe(const std::string& name) const {
  return state_->matrix(state_->index_of(name));
}

TensorView DummySource::tensor(const std::string& name) const {
  const size_t index = state_->index_of(name);
  const RandomMatrix matrix = state_->matrix(index);
  const std::shared_ptr<Made> made = state_->slot(index);
  const auto view = [&] {
    return TensorView::matrix(made->data.get(), matrix.dtype, matrix.rows, matrix.cols);
  };
  std::call_once(made->once, [&] {
    // Not value-initialised: every byte is written below.
    made->data.reset(new std::byte[size_t(matrix.rows * matrix.cols) * dtype_size(matrix.dtype)]);
    fill_random({.matrix = matrix}, view());
  });
  return view();
}

void DummySource::release() const {
  const std::lock_guard lock(state_->mutex);
  state_->made.clear();
}

}  // namespace convoke
