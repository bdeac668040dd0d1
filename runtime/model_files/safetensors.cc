#include "runtime/model_files/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <optional>
#include <string_view>

#include "runtime/model_files/json_file.h"

namespace convoke {
namespace {

using nlohmann::json;

constexpr uint64_t kLengthBytes = 8;
constexpr uint64_t kMaxHeaderBytes = 100'000'000;  // the format's own limit

struct DTypeName {
  std::string_view name;
  DType dtype;
};
constexpr std::array<DTypeName, 6> kDTypes = {{{"F32", DType::kFloat32},
                                               {"BF16", DType::kBFloat16},
                                               {"F16", DType::kFloat16},
                                               {"I64", DType::kInt64},
                                               {"BOOL", DType::kBool},
                                               {"F8_E4M3", DType::kFloat8E4M3}}};

/// A tensor name for a message: names come from the file and may be huge.
std::string told(const std::string& name) {
  return shown(json(name));
}

/// The checks of one file.
class Parser {
 public:
  Parser(std::span<const std::byte> file, const std::string& name,
         std::vector<std::string>& problems)
      : file_(file), name_(name), problems_(problems) {}

  SafetensorsHeader parse() {
    const std::optional<std::string_view> text = header_text();
    if (!text) return {};
    json header;
    try {
      header = parse_json(*text, name_ + ": header");
    } catch (const Error& error) {
      problems_.emplace_back(error.what());
      return {};
    }
    const size_t before = problems_.size();
    for (const auto& [key, value] : header.items()) {
      if (key == "__metadata__") {
        read_metadata(value);
      } else {
        read_tensor(key, value);
      }
    }
    // Offsets are compared only when all of them are known.
    if (problems_.size() == before) check_layout();
    return std::move(result_);
  }

 private:
  template <typename... Args>
  void problem(fmt::format_string<Args...> format, Args&&... args) {
    problems_.push_back(name_ + ": " + fmt::format(format, std::forward<Args>(args)...));
  }

  std::optional<std::string_view> header_text() {
    if (file_.size() < kLengthBytes) {
      problem("has {} bytes, too few for a safetensors file", file_.size());
      return std::nullopt;
    }
    const auto* bytes = reinterpret_cast<const unsigned char*>(file_.data());
    uint64_t length = 0;
    for (uint64_t i = 0; i < kLengthBytes; ++i) length |= uint64_t{bytes[i]} << (8 * i);
    constexpr std::string_view kPointer = "version https://git-lfs";
    const std::string_view all(reinterpret_cast<const char*>(bytes), file_.size());
    if (all.starts_with(kPointer)) {
      problem("is a Git LFS pointer, not the weights; fetch them with `git lfs pull`");
      return std::nullopt;
    }
    if (length > kMaxHeaderBytes) {
      problem("not a safetensors file: its header would have {} bytes (at most {} are allowed)",
              length, kMaxHeaderBytes);
      return std::nullopt;
    }
    if (length > file_.size() - kLengthBytes) {
      problem("is cut short: the header has {} bytes, the file {}", length, file_.size());
      return std::nullopt;
    }
    data_begin_ = kLengthBytes + length;
    const std::string_view text = all.substr(kLengthBytes, length);
    if (!text.starts_with('{')) {
      problem("not a safetensors file: the header does not begin with '{{'");
      return std::nullopt;
    }
    return text;
  }

  void read_metadata(const json& value) {
    bool good = value.is_object();
    if (good) {
      for (const auto& [key, entry] : value.items()) {
        good = good && entry.is_string();
        if (entry.is_string()) result_.metadata[key] = entry.get<std::string>();
      }
    }
    if (!good) problem("__metadata__ must map strings to strings");
  }

  void read_tensor(const std::string& name, const json& value) {
    if (!value.is_object()) {
      problem("tensor {}: must be an object, is {}", told(name), shown(value));
      return;
    }
    SafetensorsEntry entry;
    entry.name = name;
    const bool good = read_dtype(value, entry) && read_shape(value, entry) &&
                      read_offsets(value, entry) && check_size(entry);
    if (good) result_.tensors.push_back(std::move(entry));
  }

  bool read_dtype(const json& value, SafetensorsEntry& entry) {
    const json& dtype = value.contains("dtype") ? value["dtype"] : json();
    for (const auto& [name, known] : kDTypes) {
      if (dtype.is_string() && dtype.get_ref<const std::string&>() == name) {
        entry.dtype = known;
        return true;
      }
    }
    problem(
        "tensor {}: dtype {} is not supported (supported: F32, BF16, F16, I64, BOOL, "
        "F8_E4M3)",
        told(entry.name), shown(dtype));
    return false;
  }

  /// A list of integers that fit in 63 bits and are not negative.
  std::optional<std::vector<int64_t>> read_list(const json& value, const char* key,
                                                const std::string& name) {
    const json& list = value.contains(key) ? value[key] : json();
    std::vector<int64_t> numbers;
    bool good = list.is_array();
    for (size_t i = 0; good && i < list.size(); ++i) {
      good = list[i].is_number_unsigned() &&
             list[i].get<uint64_t>() <= static_cast<uint64_t>(INT64_MAX);
      if (good) numbers.push_back(list[i].get<int64_t>());
    }
    if (good) return numbers;
    problem("tensor {}: {} must be a list of integers that are not negative, is {}", told(name),
            key, shown(list));
    return std::nullopt;
  }

  bool read_shape(const json& value, SafetensorsEntry& entry) {
    auto shape = read_list(value, "shape", entry.name);
    if (shape) entry.shape = *std::move(shape);
    return shape.has_value();
  }

  bool read_offsets(const json& value, SafetensorsEntry& entry) {
    const auto offsets = read_list(value, "data_offsets", entry.name);
    if (!offsets) return false;
    if (offsets->size() != 2 || (*offsets)[0] > (*offsets)[1]) {
      problem("tensor {}: data_offsets must be [begin, end], is {}", told(entry.name),
              shown(value["data_offsets"]));
      return false;
    }
    const uint64_t data_bytes = file_.size() - data_begin_;
    const auto begin = static_cast<uint64_t>((*offsets)[0]);
    const auto end = static_cast<uint64_t>((*offsets)[1]);
    if (end > data_bytes) {
      problem("tensor {}: ends at byte {} of the data, but the file has only {} (is it cut short?)",
              told(entry.name), end, data_bytes);
      return false;
    }
    entry.begin = data_begin_ + begin;
    entry.end = data_begin_ + end;
    return true;
  }

  bool check_size(const SafetensorsEntry& entry) {
    uint64_t bytes = dtype_size(entry.dtype);
    bool overflow = false;
    for (const int64_t extent : entry.shape) {
      overflow = overflow || __builtin_mul_overflow(bytes, static_cast<uint64_t>(extent), &bytes);
    }
    if (!overflow && bytes == entry.end - entry.begin) return true;
    problem("tensor {}: shape {} of {} does not fit its {} bytes", told(entry.name),
            shown(json(entry.shape)), dtype_name(entry.dtype), entry.end - entry.begin);
    return false;
  }

  /// The format wants the data covered without holes, so that no byte goes unexplained.
  void check_layout() {
    auto& tensors = result_.tensors;
    std::sort(tensors.begin(), tensors.end(), [](const auto& a, const auto& b) {
      return std::tie(a.begin, a.end, a.name) < std::tie(b.begin, b.end, b.name);
    });
    uint64_t covered = data_begin_;
    const std::string* last = nullptr;
    for (const SafetensorsEntry& entry : tensors) {
      if (entry.begin < covered) {
        problem("tensor {}: overlaps tensor {}", told(entry.name), told(*last));
      } else if (entry.begin > covered) {
        problem("tensor {}: {} bytes before it belong to no tensor", told(entry.name),
                entry.begin - covered);
      }
      covered = std::max(covered, entry.end);
      last = &entry.name;
    }
    if (covered != file_.size()) {
      problem("{} bytes after the last tensor belong to no tensor", file_.size() - covered);
    }
  }

  std::span<const std::byte> file_;
  const std::string& name_;
  std::vector<std::string>& problems_;
  uint64_t data_begin_ = 0;
  SafetensorsHeader result_;
};

}  // namespace

SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name,
                                    std::vector<std::string>& problems) {
  return Parser(file, name, problems).parse();
}

}  // namespace convoke
