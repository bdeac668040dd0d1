#include "runtime/model_files/weight_index.h"

#include "runtime/model_files/json_file.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;

constexpr size_t kMaxIndexBytes = size_t{256} << 20;

/// An index names files beside it; anything else could make us read any file of the machine.
bool stays_inside(const std::string& name) {
  const fs::path path(name);
  if (name.empty() || name.find('\0') != std::string::npos || path.is_absolute()) return false;
  for (const auto& part : path) {
    if (part == ".." || part.empty()) return false;
  }
  return true;
}

}  // namespace

WeightMap read_weight_index(const fs::path& path, std::vector<Error>& problems) {
  const std::string file = path.string();
  const auto problem = [&](std::string text) {
    problems.emplace_back(ErrorKind::kModel, file + ": " + std::move(text));
  };
  const nlohmann::json index = parse_json(read_text_file(path, kMaxIndexBytes), file);
  WeightMap files;
  if (!index.is_object() || !index.contains("weight_map") || !index["weight_map"].is_object()) {
    problem("must have an object 'weight_map' from tensor to file");
    return files;
  }
  for (const auto& [tensor, value] : index["weight_map"].items()) {
    if (!value.is_string()) {
      problem(fmt::format("tensor '{}': must name a file, is {}", tensor, shown(value)));
    } else if (!stays_inside(value.get_ref<const std::string&>())) {
      problem(fmt::format("tensor '{}': {} is not the name of a file in this directory", tensor,
                          shown(value)));
    } else {
      files[value.get<std::string>()].push_back(tensor);
    }
  }
  if (files.empty() && problems.empty()) problem("its 'weight_map' names no tensor");
  return files;
}

}  // namespace convoke
