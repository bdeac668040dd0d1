#include "runtime/model_files/checkpoint.h"

#include <cstring>
#include <map>
#include <mutex>
#include <unordered_map>

#include "runtime/model_files/json_file.h"
#include "runtime/model_files/mapped_file.h"
#include "runtime/model_files/mapped_view.h"
#include "runtime/model_files/safetensors.h"
#include "runtime/model_files/weight_index.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";

class Checkpoint final : public TensorSource {
 public:
  explicit Checkpoint(std::string directory) : directory_(std::move(directory)) {}

  /// Takes over a file whose header was found good.
  void add_file(std::string path, MappedFile file, SafetensorsHeader header,
                std::vector<Error>& problems) {
    const size_t index = files_.size();
    for (SafetensorsEntry& entry : header.tensors) {
      const auto [place, is_new] = by_name_.try_emplace(entry.name, tensors_.size());
      if (!is_new) {
        problems.emplace_back(ErrorKind::kModel,
                              fmt::format("{}: tensor '{}' is in {} too", path, entry.name,
                                          files_[tensors_[place->second].file].path));
        continue;
      }
      tensors_.push_back({std::move(entry), index});
    }
    files_.push_back({std::move(path), std::move(file)});
  }

  /// The file a tensor is in, or "".
  std::string file_of(const std::string& name) const {
    const auto found = by_name_.find(name);
    return found == by_name_.end() ? "" : files_[tensors_[found->second].file].path;
  }

  std::vector<TensorInfo> list() const override {
    std::vector<TensorInfo> all;
    all.reserve(tensors_.size());
    for (const Tensor& tensor : tensors_) {
      all.push_back(
          {tensor.entry.name, tensor.entry.dtype, tensor.entry.shape, files_[tensor.file].path});
    }
    return all;
  }

  bool contains(const std::string& name) const override { return by_name_.count(name) != 0; }

  TensorView tensor(const std::string& name) const override {
    const auto found = by_name_.find(name);
    if (found == by_name_.end()) {
      throw_error(ErrorKind::kModel, "{}: tensor '{}' is missing", directory_, name);
    }
    const Tensor& tensor = tensors_[found->second];
    const std::byte* data = files_[tensor.file].map.bytes().data() + tensor.entry.begin;
    if (reinterpret_cast<uintptr_t>(data) % dtype_size(tensor.entry.dtype) == 0) {
      return view_of_shape(tensor.entry.shape, tensor.entry.dtype, data);
    }
    return view_of_shape(tensor.entry.shape, tensor.entry.dtype,
                         aligned_copy(name, tensor.entry, data));
  }

  void will_need(const TensorView& view) const override {
    if (const MappedFile* map = map_of(view)) advise_will_need(*map, view);
  }

  void done_with(const TensorView& view) const override {
    if (const MappedFile* map = map_of(view)) advise_done(*map, view);
  }

  void read(const TensorView& view, std::byte* to) const override {
    const MappedFile* map = map_of(view);
    if (map == nullptr) return TensorSource::read(view, to);
    const size_t row_bytes = size_t(view.cols) * dtype_size(view.dtype);
    const auto place = [&](int64_t row) {
      return static_cast<size_t>(view.row<std::byte>(row) - map->bytes().data());
    };
    const bool dense = view.row_stride == view.cols;
    const int64_t reads = dense ? 1 : view.rows;
    const size_t bytes = dense ? row_bytes * size_t(view.rows) : row_bytes;
    for (int64_t r = 0; r < reads; ++r, to += bytes) {
      const std::string problem = map->read(place(r), {to, bytes});
      if (!problem.empty()) fail_reading(*map, place(r), problem);
    }
  }

  std::string describe() const override { return directory_; }

 private:
  struct File {
    std::string path;
    MappedFile map;
  };
  struct Tensor {
    SafetensorsEntry entry;
    size_t file;
  };

  [[noreturn]] void fail_reading(const MappedFile& map, size_t place,
                                 const std::string& problem) const {
    for (const Tensor& tensor : tensors_) {
      const File& file = files_[tensor.file];
      if (&file.map != &map || place < tensor.entry.begin || place >= tensor.entry.end) continue;
      throw_error(ErrorKind::kResource, "{}: tensor '{}': {}", file.path, tensor.entry.name,
                  problem);
    }
    throw_error(ErrorKind::kResource, "{}: {}", directory_, problem);
  }

  /// nullptr for an empty view and for the copy of a misaligned tensor.
  const MappedFile* map_of(const TensorView& view) const {
    for (const File& file : files_) {
      if (holds(file.map, view)) return &file.map;
    }
    return nullptr;
  }

  const std::byte* aligned_copy(const std::string& name, const SafetensorsEntry& entry,
                                const std::byte* data) const {
    const std::lock_guard lock(copies_mutex_);
    std::unique_ptr<std::byte[]>& copy = copies_[name];
    if (!copy) {
      const size_t bytes = entry.end - entry.begin;
      copy = std::make_unique<std::byte[]>(bytes);  // aligned for every dtype we have
      std::memcpy(copy.get(), data, bytes);
    }
    return copy.get();
  }

  std::string directory_;
  std::vector<File> files_;
  std::vector<Tensor> tensors_;  ///< in order of files and bytes
  std::unordered_map<std::string, size_t> by_name_;
  mutable std::mutex copies_mutex_;
  mutable std::map<std::string, std::unique_ptr<std::byte[]>> copies_;
};

/// Also true for a link to nowhere, so that opening it tells what is wrong.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

/// Why there is nothing to open, with what would help.
std::string nothing_found(const fs::path& directory) {
  std::error_code error;
  if (!fs::is_directory(directory, error)) {
    return fmt::format("{}: not a directory{}", directory.string(),
                       error ? ": " + error.message() : "");
  }
  std::string hint;
  for (const auto& entry : fs::directory_iterator(directory, error)) {
    const std::string extension = entry.path().extension().string();
    if (extension == ".bin" || extension == ".pt" || extension == ".gguf") {
      hint = fmt::format("; {} is not supported, convert it to safetensors",
                         entry.path().filename().string());
    }
  }
  return fmt::format("{}: has neither {} nor {}{}", directory.string(), kSingleFile, kIndexFile,
                     hint);
}

/// Opens the files of `weights` and compares their tensors with what it says.
class Scanner {
 public:
  Scanner(const fs::path& directory, CheckpointScan& scan) : directory_(directory), scan_(scan) {}

  /// One file that is there by this name.
  void run_file(const std::string& name) {
    auto checkpoint = std::make_unique<Checkpoint>((directory_ / name).string());
    open_file(*checkpoint, name);
    scan_.source = std::move(checkpoint);
  }

  void run() {
    auto checkpoint = std::make_unique<Checkpoint>(directory_.string());
    if (is_there(directory_ / kSingleFile)) {
      open_file(*checkpoint, kSingleFile);
    } else if (is_there(directory_ / kIndexFile)) {
      open_index(*checkpoint);
    } else {
      scan_.problems.emplace_back(ErrorKind::kModel, nothing_found(directory_));
    }
    scan_.source = std::move(checkpoint);
  }

 private:
  void open_index(Checkpoint& checkpoint) {
    WeightMap weights;
    try {
      weights = read_weight_index(directory_ / kIndexFile, scan_.problems);
    } catch (const Error& error) {
      scan_.problems.push_back(error);
    }
    std::erase_if(weights, [&](const auto& entry) { return !open_file(checkpoint, entry.first); });
    for (const auto& [file, tensors] : weights) {
      const std::string path = (directory_ / file).string();
      for (const std::string& tensor : tensors) {
        const std::string actual = checkpoint.file_of(tensor);
        if (actual == path) continue;
        scan_.problems.emplace_back(
            ErrorKind::kModel,
            fmt::format("{}: tensor '{}' is {}, though {} says it is here", path, tensor,
                        actual.empty() ? "missing" : "in " + actual, kIndexFile));
      }
    }
  }

  bool open_file(Checkpoint& checkpoint, const std::string& name) {
    const std::string path = (directory_ / name).string();
    try {
      MappedFile file(path);
      std::vector<std::string> problems;
      SafetensorsHeader header = parse_safetensors(file.bytes(), path, problems);
      for (auto& problem : problems) scan_.problems.emplace_back(ErrorKind::kModel, problem);
      if (!problems.empty()) return false;
      scan_.files.push_back({name, file.bytes().size(), header.tensors.size()});
      checkpoint.add_file(path, std::move(file), std::move(header), scan_.problems);
      return true;
    } catch (const Error& error) {
      scan_.problems.push_back(error);
      return false;
    }
  }

  const fs::path& directory_;
  CheckpointScan& scan_;
};

std::unique_ptr<TensorSource> source_or_throw(CheckpointScan scan) {
  if (scan.problems.size() == 1) throw Error(scan.problems.front());
  std::vector<std::string> problems;
  for (const Error& problem : scan.problems) problems.emplace_back(problem.what());
  throw_problems(problems);
  return std::move(scan.source);
}

}  // namespace

CheckpointScan scan_checkpoint(const fs::path& directory) {
  CheckpointScan scan;
  Scanner(directory, scan).run();
  return scan;
}

std::unique_ptr<TensorSource> open_checkpoint(const fs::path& directory) {
  return source_or_throw(scan_checkpoint(directory));
}

std::unique_ptr<TensorSource> open_safetensors_file(const fs::path& file) {
  CheckpointScan scan;
  const fs::path directory = file.parent_path();
  Scanner(directory, scan).run_file(file.filename().string());
  return source_or_throw(std::move(scan));
}

}  // namespace convoke
