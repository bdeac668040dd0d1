#include "runtime/model_files/torch_archive.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>
#include <mutex>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "runtime/model_files/mapped_file.h"
#include "runtime/model_files/mapped_view.h"
#include "runtime/model_files/shown_text.h"
#include "runtime/model_files/torch_pickle.h"
#include "runtime/model_files/zip_file.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;

constexpr std::string_view kPickleEntry = "data.pkl";
constexpr uint64_t kMaxSmallEntry = 64;  ///< `version`, `byteorder`
constexpr int kMostVersion = 10;         ///< kMaxSupportedFileFormatVersion of PyTorch

constexpr std::string_view kZipMagic = "PK\3\4";
/// The integer 0x1950a86a20f9469cfc6c as every pickle protocol from 2 on writes it.
constexpr std::string_view kOldMagic = "\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";
constexpr size_t kOldMagicWithin = 32;  ///< before it: protocol, perhaps a frame

std::string_view text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

bool is_old_file(std::span<const std::byte> file) {
  const std::string_view text = text_of(file);
  return text.starts_with('\x80') && text.substr(0, kOldMagicWithin).find(kOldMagic) != text.npos;
}

/// Why these bytes are no zip archive, or nothing.
void check_magic(std::span<const std::byte> file, const std::string& name) {
  if (text_of(file).starts_with(kZipMagic)) return;
  if (is_old_file(file)) {
    throw_error(ErrorKind::kModel,
                "{}: was written by PyTorch before 1.6 (or with "
                "_use_new_zipfile_serialization=False), which is not supported; save it again: "
                "torch.save(torch.load(file, weights_only=True), file)",
                name);
  }
  if (text_of(file).starts_with("version https://git-lfs")) {
    throw_error(ErrorKind::kModel,
                "{}: is a Git LFS pointer, not the weights; fetch them with `git lfs pull`", name);
  }
  throw_error(ErrorKind::kModel,
              "{}: not a file of torch.save: it does not begin like a zip archive", name);
}

/// Copies the elements of a strided view one after the other.
template <typename T>
void gather(const TorchTensor& tensor, const std::byte* storage, std::byte* out) {
  const size_t rank = tensor.shape.size();
  std::vector<int64_t> index(rank, 0);
  const uint64_t count = tensor.elements();
  uint64_t at = tensor.offset;
  for (uint64_t i = 0; i < count; ++i) {
    std::memcpy(out + i * sizeof(T), storage + at * sizeof(T), sizeof(T));
    for (size_t d = rank; d-- > 0;) {
      const auto stride = static_cast<uint64_t>(tensor.strides[d]);
      at += stride;
      if (++index[d] < tensor.shape[d]) break;
      at -= stride * static_cast<uint64_t>(tensor.shape[d]);
      index[d] = 0;
    }
  }
}

void gather(const TorchTensor& tensor, DType dtype, const std::byte* storage, std::byte* out) {
  switch (dtype_size(dtype)) {
    case 1:
      return gather<uint8_t>(tensor, storage, out);
    case 2:
      return gather<uint16_t>(tensor, storage, out);
    case 4:
      return gather<uint32_t>(tensor, storage, out);
    default:
      CONVOKE_CHECK_EQ(dtype_size(dtype), sizeof(uint64_t));
      return gather<uint64_t>(tensor, storage, out);
  }
}

class TorchSource final : public TensorSource {
 public:
  TorchSource(std::span<const std::byte> file, std::string name, std::optional<MappedFile> map)
      : name_(std::move(name)), map_(std::move(map)), zip_(file, name_) {
    find_folder();
    check_version();
    check_byte_order();
    read_pickle();
    find_storages();
  }

  std::vector<TensorInfo> list() const override {
    std::vector<TensorInfo> all;
    all.reserve(pickle_.tensors.size());
    for (const TorchTensor& tensor : pickle_.tensors) {
      all.push_back({tensor.name, dtype_of(tensor), tensor.shape, name_});
    }
    return all;
  }

  bool contains(const std::string& name) const override { return by_name_.count(name) != 0; }

  TensorView tensor(const std::string& name) const override {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw_error(ErrorKind::kModel, "{}: tensor '{}' is missing", name_, name);
    }
    const TorchTensor& tensor = pickle_.tensors[found->second];
    const DType dtype = dtype_of(tensor);
    const size_t size = dtype_size(dtype);
    const std::byte* storage = storages_[tensor.storage]->in_place;
    const std::lock_guard lock(mutex_);
    if (storage == nullptr) storage = unpacked(tensor.storage);
    const bool aligned = reinterpret_cast<uintptr_t>(storage) % size == 0;
    if (tensor.contiguous() && aligned) {
      return view_of_shape(tensor.shape, dtype, storage + tensor.offset * size);
    }
    std::unique_ptr<std::byte[]>& copy = copies_[found->second];
    if (!copy) {
      copy = std::make_unique<std::byte[]>(tensor.elements() * size);
      gather(tensor, dtype, storage, copy.get());
    }
    return view_of_shape(tensor.shape, dtype, copy.get());
  }

  void will_need(const TensorView& view) const override {
    if (map_ && holds(*map_, view)) advise_will_need(*map_, view);
  }
  void done_with(const TensorView& view) const override {
    if (map_ && holds(*map_, view)) advise_done(*map_, view);
  }

  std::string describe() const override { return name_; }

 private:
  DType dtype_of(const TorchTensor& tensor) const { return pickle_.storages[tensor.storage].dtype; }

  /// The folder that everything lies in, with its slash.
  void find_folder() {
    const ZipFile::Entry* pickle = nullptr;
    for (const ZipFile::Entry& entry : zip_.entries()) {
      const size_t slash = entry.name.find('/');
      if (slash == std::string::npos || entry.name.substr(slash + 1) != kPickleEntry) continue;
      if (pickle != nullptr) {
        throw_error(ErrorKind::kModel, "{}: has both {} and {}; which are the weights?", name_,
                    shown_text(pickle->name), shown_text(entry.name));
      }
      pickle = &entry;
      folder_ = entry.name.substr(0, slash + 1);
    }
    if (pickle == nullptr) {
      throw_error(ErrorKind::kModel, "{}: not a file of torch.save: it has no entry FOLDER/{}",
                  name_, kPickleEntry);
    }
  }

  /// A short text entry without its line end; absent if there is none.
  std::optional<std::string> small_entry(std::string_view entry_name) const {
    const ZipFile::Entry* entry = zip_.find(folder_ + std::string(entry_name));
    if (entry == nullptr) return std::nullopt;
    if (entry->size > kMaxSmallEntry) {
      throw_error(ErrorKind::kModel, "{}: {}{} has {} bytes", name_, folder_, entry_name,
                  entry->size);
    }
    const auto bytes = zip_.read(*entry);
    std::string text(reinterpret_cast<const char*>(bytes.get()), entry->size);
    while (text.ends_with('\n')) text.pop_back();
    return text;
  }

  void check_version() const {
    const std::optional<std::string> text = small_entry("version");
    if (!text) return;
    int version = 0;
    const auto [end, code] = std::from_chars(text->data(), text->data() + text->size(), version);
    if (code != std::errc() || end != text->data() + text->size() || version < 1 ||
        version > kMostVersion) {
      throw_error(ErrorKind::kModel, "{}: format version {} is not supported (supported: 1 to {})",
                  name_, shown_text(*text), kMostVersion);
    }
  }

  void check_byte_order() const {
    const std::optional<std::string> order = small_entry("byteorder");
    if (!order || *order == "little") return;
    throw_error(ErrorKind::kModel,
                "{}: byte order {} is not supported; save it again on a little-endian machine",
                name_, shown_text(*order));
  }

  void read_pickle() {
    const ZipFile::Entry& entry = *zip_.find(folder_ + std::string(kPickleEntry));
    const std::string where = fmt::format("{}: {}{}", name_, folder_, kPickleEntry);
    const auto bytes = zip_.read(entry);
    pickle_ = parse_torch_pickle({bytes.get(), entry.size}, where);
    for (size_t i = 0; i < pickle_.tensors.size(); ++i) by_name_[pickle_.tensors[i].name] = i;
  }

  /// Every storage that a tensor uses is there in full.
  void find_storages() {
    storages_.assign(pickle_.storages.size(), nullptr);
    for (const TorchTensor& tensor : pickle_.tensors) {
      const TorchStorage& storage = pickle_.storages[tensor.storage];
      if (storages_[tensor.storage] != nullptr) continue;
      const ZipFile::Entry* entry = zip_.find(fmt::format("{}data/{}", folder_, storage.key));
      if (entry == nullptr) {
        throw_error(ErrorKind::kModel, "{}: tensor {}: its storage {}data/{} is missing", name_,
                    shown_text(tensor.name), folder_, shown_text(storage.key));
      }
      uint64_t bytes = 0;
      if (__builtin_mul_overflow(storage.elements, dtype_size(storage.dtype), &bytes) ||
          bytes != entry->size) {
        throw_error(ErrorKind::kModel,
                    "{}: tensor {}: its storage {} has {} bytes, but {} elements of {} are said to "
                    "be in it",
                    name_, shown_text(tensor.name), shown_text(entry->name), entry->size,
                    storage.elements, dtype_name(storage.dtype));
      }
      storages_[tensor.storage] = entry;
    }
  }

  /// The bytes of a compressed storage. Under the lock.
  const std::byte* unpacked(size_t storage) const {
    std::unique_ptr<std::byte[]>& bytes = unpacked_[storage];
    if (!bytes) bytes = zip_.read(*storages_[storage]);
    return bytes.get();
  }

  std::string name_;
  std::optional<MappedFile> map_;
  ZipFile zip_;
  std::string folder_;
  TorchPickle pickle_;
  std::unordered_map<std::string, size_t> by_name_;
  std::vector<const ZipFile::Entry*> storages_;  ///< of pickle_.storages
  mutable std::mutex mutex_;                     ///< guards what follows, and reading zip_
  mutable std::unordered_map<size_t, std::unique_ptr<std::byte[]>> copies_;    ///< of tensors
  mutable std::unordered_map<size_t, std::unique_ptr<std::byte[]>> unpacked_;  ///< storages
};

}  // namespace

bool looks_like_torch_file(std::span<const std::byte> file) {
  return text_of(file).starts_with(kZipMagic) || is_old_file(file);
}

std::unique_ptr<TensorSource> open_torch_bytes(std::span<const std::byte> file, std::string name) {
  check_magic(file, name);
  return std::make_unique<TorchSource>(file, std::move(name), std::nullopt);
}

std::unique_ptr<TensorSource> open_torch_file(const fs::path& path) {
  MappedFile map(path);
  const auto bytes = map.bytes();
  check_magic(bytes, path.string());
  return std::make_unique<TorchSource>(bytes, path.string(), std::move(map));
}

}  // namespace convoke
