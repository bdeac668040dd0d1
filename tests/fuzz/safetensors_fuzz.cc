// A safetensors file from hostile bytes. What parses without a problem must lie inside the file.
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/check.h"
#include "runtime/model_files/safetensors.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> file(reinterpret_cast<const std::byte*>(data), size);
  std::vector<std::string> problems;
  const convoke::SafetensorsHeader header =
      convoke::parse_safetensors(file, "model.safetensors", problems);
  if (!problems.empty()) return 0;
  volatile uint8_t seen = 0;
  uint64_t end = 0;
  for (const auto& tensor : header.tensors) {
    uint64_t bytes = convoke::dtype_size(tensor.dtype);
    for (const int64_t extent : tensor.shape) bytes *= static_cast<uint64_t>(extent);
    CONVOKE_CHECK_EQ(bytes, tensor.end - tensor.begin);
    CONVOKE_CHECK_LE(end, tensor.begin);
    CONVOKE_CHECK_LE(tensor.end, size);
    for (uint64_t i = tensor.begin; i < tensor.end; ++i) seen = data[i];
    end = tensor.end;
  }
  (void)seen;
  return 0;
}
