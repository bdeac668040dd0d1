// Checkpoints as torch.save writes them (PyTorch 1.6 and later): a zip archive of one folder of any
// name, with `data.pkl` (runtime/model_files/torch_pickle.h) and one stored entry `data/<key>` for
// every storage. Source: torch/serialization.py and caffe2/serialize/inline_container.h of PyTorch.
#pragma once

#include <cstddef>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "runtime/model_files/tensor_source.h"

namespace convoke {

/// The tensors of one file (`pytorch_model.bin`, `medusa_lm_head.pt`). Nothing in the file is
/// executed. The file is memory-mapped, and contiguous tensors are views of the mapping, as with
/// open_checkpoint; tensors with other strides, and those of compressed or misaligned entries, are
/// copied in C order when they are first asked for. Tied tensors are views of the same bytes.
///
/// Checked before any tensor is handed out: the archive's directory, the pickle, that every storage
/// is there with the size the pickle gives it, every view inside its storage, format version
/// (1 to 10) and byte order (little endian only). Throws Error(kModel) that names file and tensor,
/// also for a file of PyTorch before 1.6 (no zip archive), with what to do; Error(kResource) if the
/// file cannot be read.
std::unique_ptr<TensorSource> open_torch_file(const std::filesystem::path& path);

/// The same over the bytes of a file, which must outlive the source; `name` is for messages.
std::unique_ptr<TensorSource> open_torch_bytes(std::span<const std::byte> file, std::string name);

/// Whether the bytes begin like a file of torch.save, of any version.
bool looks_like_torch_file(std::span<const std::byte> file);

}  // namespace convoke
