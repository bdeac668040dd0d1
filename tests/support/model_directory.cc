#include "tests/support/model_directory.h"

#include <cstdlib>
#include <fstream>

#include "kernels/check.h"

namespace convoke {

namespace fs = std::filesystem;

TemporaryDirectory::TemporaryDirectory() {
  std::string name = (fs::temp_directory_path() / "convoke-test-XXXXXX").string();
  CONVOKE_CHECK(mkdtemp(name.data()) != nullptr);
  path_ = name;
}

TemporaryDirectory::~TemporaryDirectory() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

fs::path TemporaryDirectory::write(const std::string& name, std::string_view bytes) const {
  const fs::path path = path_ / name;
  fs::create_directories(path.parent_path());
  std::ofstream file(path, std::ios::binary);
  file << bytes;
  CONVOKE_CHECK(file.good());
  return path;
}

std::string safetensors_bytes(const std::string& header, std::string_view data) {
  std::string bytes;
  for (int i = 0; i < 8; ++i)
    bytes += static_cast<char>((uint64_t{header.size()} >> (8 * i)) & 255);
  bytes += header;
  return bytes.append(data);
}

std::string safetensors_bytes(const std::vector<TensorInfo>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  header["__metadata__"] = {{"format", "pt"}};
  std::string data;
  for (size_t i = 0; i < tensors.size(); ++i) {
    const TensorInfo& info = tensors[i];
    size_t bytes = dtype_size(info.dtype);
    for (const int64_t extent : info.shape) bytes *= static_cast<size_t>(extent);
    const char* dtype = "F32";
    if (info.dtype == DType::kBFloat16) dtype = "BF16";
    if (info.dtype == DType::kFloat16) dtype = "F16";
    if (info.dtype == DType::kInt64) dtype = "I64";
    if (info.dtype == DType::kBool) dtype = "BOOL";
    if (info.dtype == DType::kFloat8E4M3) dtype = "F8_E4M3";
    header[info.name] = {{"dtype", dtype},
                         {"shape", info.shape},
                         {"data_offsets", {data.size(), data.size() + bytes}}};
    data.append(bytes, static_cast<char>(i + 1));
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  return safetensors_bytes(text, data);
}

nlohmann::json small_llama_config() {
  return {{"architectures", {"LlamaForCausalLM"}},
          {"model_type", "llama"},
          {"hidden_size", 32},
          {"intermediate_size", 48},
          {"num_hidden_layers", 2},
          {"num_attention_heads", 4},
          {"num_key_value_heads", 2},
          {"vocab_size", 100},
          {"max_position_embeddings", 256},
          {"torch_dtype", "bfloat16"}};
}

}  // namespace convoke
