// The index of a checkpoint in several files: *.index.json.
#pragma once

#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "kernels/check.h"

namespace convoke {

/// File -> the tensors said to be in it.
using WeightMap = std::map<std::string, std::vector<std::string>>;

/// The `weight_map` of an index. What is wrong in it is added to `problems`, each naming the file
/// and the tensor; a name that leads out of the index's directory is a problem. Throws
/// Error(kModel) for a file that is missing or no JSON, Error(kResource) if it cannot be read.
WeightMap read_weight_index(const std::filesystem::path& path, std::vector<Error>& problems);

}  // namespace convoke
