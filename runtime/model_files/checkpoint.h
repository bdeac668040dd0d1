// What open_checkpoint finds on the way, for `convoke inspect`.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "runtime/model_files/tensor_source.h"

namespace convoke {

struct CheckpointScan {
  struct File {
    std::string name;  ///< as in the index
    uint64_t bytes = 0;
    size_t tensors = 0;
  };
  std::vector<File> files;
  std::unique_ptr<TensorSource> source;  ///< of the files that could be read; may lack tensors
  std::vector<Error> problems;           ///< each names file and tensor
};

/// open_checkpoint that goes on after a problem. Never throws for bad files.
CheckpointScan scan_checkpoint(const std::filesystem::path& directory);

}  // namespace convoke
