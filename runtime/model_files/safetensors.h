// The safetensors format: 8 bytes of header length (little endian), a JSON header, the data.
// Source: https://github.com/huggingface/safetensors (README, "Format").
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace convoke {

struct SafetensorsEntry {
  std::string name;
  DType dtype = DType::kBFloat16;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  ///< first byte, counted from the start of the file
  uint64_t end = 0;
};

struct SafetensorsHeader {
  std::vector<SafetensorsEntry> tensors;  ///< in order of their bytes
  std::map<std::string, std::string> metadata;
};

/// Parses and checks the header of a whole file. Touches the header's bytes only. What is wrong is
/// added to `problems`, one entry per tensor, each naming `name` (the file) and the tensor; the
/// result is then not to be used. Never throws for bad input.
SafetensorsHeader parse_safetensors(std::span<const std::byte> file, const std::string& name,
                                    std::vector<std::string>& problems);

}  // namespace convoke
