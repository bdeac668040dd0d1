// Scratch model directories: written, lied about and damaged by tests.
#pragma once

#include <cstdint>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/model_files/tensor_source.h"

namespace convoke {

/// A directory of its own that goes with the object.
class TemporaryDirectory {
 public:
  TemporaryDirectory();
  ~TemporaryDirectory();
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;
  const std::filesystem::path& path() const { return path_; }
  std::filesystem::path write(const std::string& name, std::string_view bytes) const;

 private:
  std::filesystem::path path_;
};

/// Bytes of a safetensors file: length, `header` as it stands, `data`.
std::string safetensors_bytes(const std::string& header, std::string_view data);

/// Bytes of a well-formed safetensors file; tensor i is filled with bytes of value i + 1.
std::string safetensors_bytes(const std::vector<TensorInfo>& tensors);

/// A small, valid LlamaForCausalLM config.json.
nlohmann::json small_llama_config();

}  // namespace convoke
