#include "runtime/model_files/head_checkpoint.h"

#include <array>
#include <fstream>
#include <string_view>
#include <unordered_map>

#include "runtime/model_files/json_file.h"
#include "runtime/model_files/shown_text.h"
#include "runtime/model_files/torch_archive.h"
#include "runtime/model_files/weight_index.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;

constexpr std::array<const char*, 6> kLookedFor = {
    "model.safetensors",          "model.safetensors.index.json",
    "pytorch_model.bin",          "pytorch_model.bin.index.json",
    "medusa_lm_head.safetensors", "medusa_lm_head.pt"};
constexpr std::array<std::string_view, 4> kTorchEndings = {".bin", ".pt", ".pth", ".ckpt"};
constexpr std::string_view kIndexEnding = ".index.json";

std::unique_ptr<TensorSource> open_file(const fs::path& file);

/// The files of an index as one source.
class ShardedSource final : public TensorSource {
 public:
  explicit ShardedSource(const fs::path& index) : index_(index.string()) {
    std::vector<Error> problems;
    const WeightMap weights = read_weight_index(index, problems);
    std::vector<std::string> texts;
    for (const Error& problem : problems) texts.emplace_back(problem.what());
    throw_problems(texts);
    for (const auto& [file, tensors] : weights) add(index.parent_path() / file, tensors, texts);
    throw_problems(texts);
  }

  std::vector<TensorInfo> list() const override {
    std::vector<TensorInfo> all;
    for (const auto& shard : shards_) {
      for (TensorInfo& info : shard->list()) all.push_back(std::move(info));
    }
    return all;
  }
  bool contains(const std::string& name) const override { return shard_of_.count(name) != 0; }
  TensorView tensor(const std::string& name) const override {
    const auto found = shard_of_.find(name);
    if (found == shard_of_.end()) {
      throw_error(ErrorKind::kModel, "{}: tensor '{}' is missing", index_, name);
    }
    return found->second->tensor(name);
  }
  void will_need(const TensorView& view) const override {  // each knows what it holds
    for (const auto& shard : shards_) shard->will_need(view);
  }
  void done_with(const TensorView& view) const override {
    for (const auto& shard : shards_) shard->done_with(view);
  }
  std::string describe() const override { return index_; }

 private:
  void add(const fs::path& file, const std::vector<std::string>& tensors,
           std::vector<std::string>& problems) {
    auto shard = open_file(file);
    for (const TensorInfo& info : shard->list()) {
      const auto [place, is_new] = shard_of_.try_emplace(info.name, shard.get());
      if (is_new) continue;
      problems.push_back(fmt::format("{}: tensor {} is in {} too", file.string(),
                                     shown_text(info.name), place->second->describe()));
    }
    for (const std::string& tensor : tensors) {
      if (shard->contains(tensor)) continue;
      problems.push_back(fmt::format("{}: tensor {} is missing, though {} says it is here",
                                     file.string(), shown_text(tensor), index_));
    }
    shards_.push_back(std::move(shard));
  }

  std::string index_;
  std::vector<std::unique_ptr<TensorSource>> shards_;
  std::unordered_map<std::string, const TensorSource*> shard_of_;
};

bool begins_like_torch(const fs::path& file) {
  constexpr size_t kEnough = 64;
  std::array<char, kEnough> begin{};
  std::ifstream stream(file, std::ios::binary);
  stream.read(begin.data(), begin.size());
  const auto count = static_cast<size_t>(stream.gcount());
  return looks_like_torch_file(std::as_bytes(std::span(begin).first(count)));
}

std::unique_ptr<TensorSource> open_file(const fs::path& file) {
  std::error_code error;
  const bool regular = fs::is_regular_file(file, error);  // never open a pipe to look at it
  const std::string ending = file.extension().string();
  bool torch = regular && begins_like_torch(file);
  for (const std::string_view known : kTorchEndings) torch = torch || ending == known;
  return torch ? open_torch_file(file) : open_safetensors_file(file);
}

/// Also true for a link to nowhere, so that opening it tells what is wrong.
bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(fs::symlink_status(path, ignored));
}

std::unique_ptr<TensorSource> open_any(const fs::path& file) {
  if (file.string().ends_with(kIndexEnding)) return std::make_unique<ShardedSource>(file);
  return open_file(file);
}

}  // namespace

std::unique_ptr<TensorSource> open_head_checkpoint(const fs::path& directory_or_file) {
  std::error_code error;
  const fs::file_status status = fs::status(directory_or_file, error);
  if (status.type() == fs::file_type::not_found || status.type() == fs::file_type::none) {
    throw_error(ErrorKind::kModel, "{}: {}", directory_or_file.string(),
                error ? error.message() : "no such file or directory");
  }
  if (!fs::is_directory(status)) return open_any(directory_or_file);
  for (const char* name : kLookedFor) {
    if (is_there(directory_or_file / name)) return open_any(directory_or_file / name);
  }
  throw_error(ErrorKind::kModel, "{}: has no drafter's weights; looked for {}",
              directory_or_file.string(), fmt::join(kLookedFor, ", "));
}

}  // namespace convoke
