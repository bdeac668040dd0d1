#include "runtime/model_files/torch_pickle.h"

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <unordered_map>
#include <unordered_set>

#include "runtime/model_files/pickle_machine.h"
#include "runtime/model_files/shown_text.h"

namespace convoke {
namespace {

constexpr size_t kMaxRank = 8;
constexpr uint64_t kMostElements = uint64_t{1} << 60;  ///< their bytes fit in 63 bits
constexpr std::array<std::string_view, 3> kWrappers = {"state_dict", "model", "module"};

/// Turns what the machine built into tensors. Looks one level deep only.
class Collector {
 public:
  Collector(const PickleMachine& machine, const std::string& name)
      : machine_(machine), name_(name) {}

  TorchPickle collect(PickleId top) {
    const PickleId dictionary = unwrap(top);
    const std::vector<PickleId>& items = machine_.items(dictionary);
    std::unordered_set<std::string_view> seen;
    for (size_t i = 0; i < items.size(); i += 2) {
      const std::string_view key = machine_.value(items[i]).text;
      if (!seen.insert(key).second) fail("tensor {}: is there twice", shown_text(key));
      add(key, items[i + 1]);
    }
    return std::move(result_);
  }

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorKind::kModel, name_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

  static bool is_wrapper(std::string_view key) {
    return std::find(kWrappers.begin(), kWrappers.end(), key) != kWrappers.end();
  }

  /// The dictionary of tensors: `top`, or what lies under its well-known key.
  PickleId unwrap(PickleId top) const {
    if (machine_.value(top).kind != PickleKind::kDict) {
      fail("holds {}, not a dictionary of tensors", machine_.described(top));
    }
    const std::vector<PickleId>& items = machine_.items(top);
    std::optional<PickleId> inner;
    std::string_view inner_key;
    for (size_t i = 0; i < items.size(); i += 2) {
      const std::string_view key = machine_.value(items[i]).text;
      if (!is_wrapper(key) || machine_.value(items[i + 1]).kind != PickleKind::kDict) continue;
      if (inner) fail("has both '{}' and '{}'; which are the weights?", inner_key, key);
      inner = items[i + 1];
      inner_key = key;
    }
    if (!inner) return top;
    for (size_t i = 0; i < items.size(); i += 2) {
      if (items[i + 1] == *inner || machine_.is_plain(items[i + 1])) continue;
      fail("beside '{}' lies {} under {}; save the weights alone: torch.save(x['{}'], file)",
           inner_key, machine_.described(items[i + 1]), shown_text(machine_.value(items[i]).text),
           inner_key);
    }
    return *inner;
  }

  void add(std::string_view key, PickleId id) {
    if (machine_.value(id).kind != PickleKind::kTensor) {
      fail("{} is {}, not a tensor", shown_text(key), machine_.described(id));
    }
    const PickleMachine::Tensor& made = machine_.tensor(id);
    const PickleMachine::Storage& storage = machine_.storage(made.storage);
    if (!storage.dtype) {
      fail("tensor {}: torch.{} is not supported (supported: Float, BFloat16, Half, Long, Bool)",
           shown_text(key), storage.type);
    }
    TorchTensor tensor;
    tensor.shape = extents(key, made.shape, "size");
    tensor.strides = extents(key, made.strides, "stride");
    if (tensor.shape.size() != tensor.strides.size()) {
      fail("tensor {}: has {} sizes but {} strides", shown_text(key), tensor.shape.size(),
           tensor.strides.size());
    }
    if (made.offset < 0) {
      fail("tensor {}: storage offset {} is negative", shown_text(key), made.offset);
    }
    tensor.offset = static_cast<uint64_t>(made.offset);
    check_view(key, tensor, storage.elements);
    tensor.name = std::string(key);
    tensor.storage = storage_index(made.storage);
    result_.tensors.push_back(std::move(tensor));
  }

  std::vector<int64_t> extents(std::string_view key, PickleId tuple, const char* what) const {
    const std::vector<PickleId>& items = machine_.items(tuple);
    if (items.size() > kMaxRank) {
      fail("tensor {}: has {} dimensions; at most {} are supported", shown_text(key), items.size(),
           kMaxRank);
    }
    std::vector<int64_t> numbers;
    for (const PickleId item : items) {
      const PickleValue& value = machine_.value(item);
      if (value.kind != PickleKind::kInt) {
        fail("tensor {}: a {} is {}, not an integer", shown_text(key), what,
             machine_.described(item));
      }
      if (value.number < 0) {
        fail("tensor {}: {} {} is negative", shown_text(key), what, value.number);
      }
      numbers.push_back(value.number);
    }
    return numbers;
  }

  /// The elements of the view, and the place of its last one, must be in the storage.
  void check_view(std::string_view key, const TorchTensor& tensor, uint64_t elements) const {
    uint64_t count = 1;  // of the extents that are not 0: the product of any of them must fit
    uint64_t last = tensor.offset;
    bool overflow = false;
    bool empty = false;
    for (size_t i = 0; i < tensor.shape.size(); ++i) {
      const auto extent = static_cast<uint64_t>(std::max<int64_t>(tensor.shape[i], 1));
      const auto stride = static_cast<uint64_t>(tensor.strides[i]);
      uint64_t step = 0;
      empty = empty || tensor.shape[i] == 0;
      overflow = overflow || __builtin_mul_overflow(count, extent, &count) || count > kMostElements;
      overflow = overflow || __builtin_mul_overflow(extent - 1, stride, &step) ||
                 __builtin_add_overflow(last, step, &last);
    }
    const bool outside = empty ? tensor.offset > elements : last >= elements;
    if (overflow || outside) {
      fail(
          "tensor {}: size [{}], stride [{}] and offset {} reach out of its storage of {} elements",
          shown_text(key), fmt::join(tensor.shape, ", "), fmt::join(tensor.strides, ", "),
          tensor.offset, elements);
    }
    if (!empty && count > elements) {
      // Repeated elements: a small file could ask for any amount of memory.
      fail(
          "tensor {}: size [{}], stride [{}] repeats the {} elements of its storage; save a "
          "contiguous() copy",
          shown_text(key), fmt::join(tensor.shape, ", "), fmt::join(tensor.strides, ", "),
          elements);
    }
  }

  size_t storage_index(size_t made) {
    const auto [place, is_new] = storages_.try_emplace(made, result_.storages.size());
    if (is_new) {
      const PickleMachine::Storage& storage = machine_.storage(made);
      result_.storages.push_back({std::string(storage.key), *storage.dtype, storage.elements});
    }
    return place->second;
  }

  const PickleMachine& machine_;
  const std::string& name_;
  TorchPickle result_;
  std::unordered_map<size_t, size_t> storages_;  ///< the machine's index -> the result's
};

}  // namespace

uint64_t TorchTensor::elements() const {
  uint64_t count = 1;
  for (const int64_t extent : shape) count *= static_cast<uint64_t>(extent);
  return count;
}

bool TorchTensor::contiguous() const {
  if (elements() < 2) return true;
  int64_t expected = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    if (shape[i] == 1) continue;  // its stride is never used
    if (strides[i] != expected) return false;
    expected *= shape[i];
  }
  return true;
}

TorchPickle parse_torch_pickle(std::span<const std::byte> pickle, const std::string& name) {
  PickleMachine machine(pickle, name);
  const PickleId top = machine.run();
  return Collector(machine, name).collect(top);
}

}  // namespace convoke
