// Random weights. Speed matters (an 8 B model has 16 GB of them) and quality hardly: a sum of two
// random bytes is near enough to normal, and looking its 511 values up in a table serves every
// dtype alike.
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#include "kernels/check.h"
#include "kernels/dtype_convert.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {
namespace {

constexpr int kSums = 2 * 255 + 1;
constexpr size_t kLanes = 16;
constexpr size_t kValues = 2 * kLanes;  // per step

uint64_t split_mix(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

/// FNV-1a: std::hash may differ between machines.
uint64_t hash_name(const std::string& name) {
  uint64_t hash = 0xcbf29ce484222325u;
  for (const char c : name) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3u;
  return hash;
}

uint16_t to_bfloat16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

/// Finite values only. Below half precision's normal range the mantissa is cut, not rounded.
uint16_t to_float16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000);
  const int exponent = static_cast<int>((bits >> 23) & 0xff) - 127 + 15;
  const uint32_t mantissa = bits & 0x7fffff;
  if (exponent >= 31) return static_cast<uint16_t>(sign | 0x7bff);
  if (exponent <= 0) {
    const int shift = 14 - exponent;
    return static_cast<uint16_t>(sign | (shift > 24 ? 0 : (mantissa | 0x800000) >> shift));
  }
  const uint32_t half = (static_cast<uint32_t>(exponent) << 10) | (mantissa >> 13);
  const uint32_t round = (mantissa >> 12) & 1;  // ties up; the table has 511 values in all
  return static_cast<uint16_t>(sign | std::min<uint32_t>(half + round, 0x7bff));
}

template <typename T>
T convert(float value, DType dtype) {
  if constexpr (sizeof(T) == 4) {
    return value;
  } else if constexpr (sizeof(T) == 1) {
    return float_to_e4m3(value);
  } else {
    return dtype == DType::kBFloat16 ? to_bfloat16(value) : to_float16(value);
  }
}

/// Independent xorshift generators side by side (Marsaglia, 2003), which compilers vectorise.
struct Lanes {
  std::array<uint32_t, kLanes> state;

  explicit Lanes(uint64_t seed) {
    for (uint32_t& lane : state) lane = static_cast<uint32_t>(split_mix(seed) >> 32) | 1;
  }
  /// Each lane's next four bytes, summed in pairs.
  void next(std::array<uint16_t, kValues>& sums) {
    std::array<uint32_t, kLanes> pairs;
    for (size_t i = 0; i < kLanes; ++i) {
      uint32_t x = state[i];
      x ^= x << 13;
      x ^= x >> 17;
      x ^= x << 5;
      state[i] = x;
      pairs[i] = (x & 0x00ff00ff) + ((x >> 8) & 0x00ff00ff);
    }
    sums = std::bit_cast<std::array<uint16_t, kValues>>(pairs);
  }
};

template <typename T>
void fill(T* out, size_t count, uint64_t seed, DType dtype, float mean, float deviation) {
  // A random byte has variance (256^2 - 1) / 12.
  const float scale = deviation / std::sqrt(2.0f * 65535.0f / 12.0f);
  std::array<T, kSums> table;
  for (int sum = 0; sum < kSums; ++sum) {
    table[static_cast<size_t>(sum)] =
        convert<T>(mean + static_cast<float>(sum - kSums / 2) * scale, dtype);
  }
  Lanes lanes(seed);
  std::array<uint16_t, kValues> sums;
  size_t done = 0;
  for (; done + kValues <= count; done += kValues) {
    lanes.next(sums);
    for (size_t i = 0; i < kValues; ++i) out[done + i] = table[sums[i]];
  }
  lanes.next(sums);
  for (size_t i = 0; done + i < count; ++i) out[done + i] = table[sums[i]];
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

TensorView DummySource::tensor(const std::string& name) const {
  const auto found = state_->by_name.find(name);
  if (found == state_->by_name.end()) {
    throw_error(ErrorKind::kModel, "dummy weights: tensor '{}' is missing", name);
  }
  const TensorInfo& info = state_->infos[found->second];
  const int64_t rows = info.shape.size() == 2 ? info.shape[0] : 1;
  const int64_t cols = info.shape.back();
  const std::shared_ptr<Made> made = state_->slot(found->second);
  std::call_once(made->once, [&] {
    const auto count = static_cast<size_t>(rows) * static_cast<size_t>(cols);
    // Not value-initialised: every byte is written below.
    made->data.reset(new std::byte[count * dtype_size(info.dtype)]);
    uint64_t seed = state_->seed ^ hash_name(name);
    seed = split_mix(seed);
    const auto weight =
        name.ends_with(kScaleSuffix)
            ? state_->by_name.find(name.substr(0, name.size() - kScaleSuffix.size()))
            : found;
    const int64_t inputs =
        weight == state_->by_name.end() ? cols : state_->infos[weight->second].shape.back();
    const auto [mean, deviation] = distribution_of(info, inputs);
    if (info.dtype == DType::kFloat8E4M3) {
      fill(reinterpret_cast<uint8_t*>(made->data.get()), count, seed, info.dtype, mean, deviation);
    } else if (info.dtype == DType::kFloat32) {
      fill(reinterpret_cast<float*>(made->data.get()), count, seed, info.dtype, mean, deviation);
    } else {
      fill(reinterpret_cast<uint16_t*>(made->data.get()), count, seed, info.dtype, mean, deviation);
    }
  });
  return TensorView::matrix(made->data.get(), info.dtype, rows, cols);
}

void DummySource::release() const {
  const std::lock_guard lock(state_->mutex);
  state_->made.clear();
}

}  // namespace convoke
