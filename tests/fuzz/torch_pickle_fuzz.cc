// A pickle, or a whole torch.save archive (what begins like a zip file), from hostile bytes. What
// opens must be readable to its last byte.
#include <cstdint>
#include <span>

#include "kernels/check.h"
#include "runtime/model_files/torch_archive.h"
#include "runtime/model_files/torch_pickle.h"

namespace {

void read_archive(std::span<const std::byte> file) {
  const auto source = convoke::open_torch_bytes(file, "file.pt");
  volatile uint8_t seen = 0;
  for (const convoke::TensorInfo& info : source->list()) {
    const convoke::TensorView view = source->tensor(info.name);
    const auto bytes = static_cast<size_t>(view.rows * view.cols) * dtype_size(view.dtype);
    for (size_t i = 0; i < bytes; ++i) seen = static_cast<const uint8_t*>(view.data)[i];
  }
  (void)seen;
}

void read_pickle(std::span<const std::byte> pickle) {
  const convoke::TorchPickle parsed = convoke::parse_torch_pickle(pickle, "data.pkl");
  for (const convoke::TorchTensor& tensor : parsed.tensors) {
    CONVOKE_CHECK_LT(tensor.storage, parsed.storages.size());
    CONVOKE_CHECK_EQ(tensor.shape.size(), tensor.strides.size());
    const uint64_t elements = parsed.storages[tensor.storage].elements;
    CONVOKE_CHECK_LE(tensor.elements(), elements);
    CONVOKE_CHECK_LE(tensor.offset, elements);
    (void)tensor.contiguous();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::span<const std::byte> bytes(reinterpret_cast<const std::byte*>(data), size);
  try {
    if (convoke::looks_like_torch_file(bytes)) {
      read_archive(bytes);
    } else {
      read_pickle(bytes);
    }
  } catch (const convoke::Error&) {
  }
  return 0;
}
