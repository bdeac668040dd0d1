#include "training/tensor_file.h"

#include <torch/types.h>
#include <torch/utils.h>

#include <cstring>

#include "kernels/check.h"
#include "launcher/replace_file.h"
#include "runtime/model_files/tensor_source.h"
#include "training/products.h"

namespace convoke::training {
namespace {

const char* dtype_code(torch::Dtype dtype) {
  if (dtype == torch::kFloat32) return "F32";
  if (dtype == torch::kBFloat16) return "BF16";
  if (dtype == torch::kFloat16) return "F16";
  if (dtype == torch::kInt64) return "I64";
  if (dtype == torch::kBool) return "BOOL";
  CONVOKE_CHECK(false);
  return "";
}

/// The length of the header, padded so that the data begin at a multiple of 8, and the header.
std::string header_bytes(const nlohmann::ordered_json& header) {
  std::string text = header.dump();
  text.resize((text.size() + 7) / 8 * 8, ' ');
  const uint64_t size = text.size();
  std::string bytes(sizeof(size), '\0');
  for (size_t i = 0; i < sizeof(size); ++i) bytes[i] = char(size >> (8 * i));
  return bytes + text;
}

}  // namespace

void write_tensors(const std::filesystem::path& file, const std::vector<Parameter>& tensors) {
  nlohmann::ordered_json header = {{"__metadata__", {{"format", "pt"}}}};
  std::vector<torch::Tensor> kept;
  std::vector<std::string_view> pieces(1);
  size_t offset = 0;
  for (const Parameter& tensor : tensors) {
    kept.push_back(tensor.value.detach().cpu().contiguous());
    const torch::Tensor& value = kept.back();
    header[tensor.name] = {{"dtype", dtype_code(value.scalar_type())},
                           {"shape", value.sizes().vec()},
                           {"data_offsets", {offset, offset + value.nbytes()}}};
    pieces.emplace_back(static_cast<const char*>(value.data_ptr()), value.nbytes());
    offset += value.nbytes();
  }
  const std::string head = header_bytes(header);
  pieces[0] = head;
  replace_file(file, pieces);
}

std::vector<Parameter> read_tensors(const std::filesystem::path& file) {
  const auto source = open_safetensors_file(file);
  std::vector<Parameter> tensors;
  for (const TensorInfo& info : source->list()) {
    tensors.push_back({info.name, copy_tensor(source->tensor(info.name)).view(info.shape)});
  }
  return tensors;
}

void restore(const std::vector<Parameter>& into, const std::vector<Parameter>& values,
             const std::string& prefix, const std::filesystem::path& file) {
  const torch::NoGradGuard no_gradients;
  for (const Parameter& target : into) {
    const std::string name = prefix + target.name;
    const auto found = std::ranges::find(values, name, &Parameter::name);
    if (found == values.end()) {
      throw_error(ErrorKind::kModel, "{}: tensor '{}' is missing", file.string(), name);
    }
    if (found->value.sizes() != target.value.sizes()) {
      throw_error(ErrorKind::kModel, "{}: tensor '{}' has another shape than this training's",
                  file.string(), name);
    }
    torch::Tensor value = target.value;
    value.copy_(found->value);
  }
}

}  // namespace convoke::training
