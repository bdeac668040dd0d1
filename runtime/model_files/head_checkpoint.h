// The weights of a drafter as they are published, whatever file they are in.
#pragma once

#include <filesystem>
#include <memory>

#include "runtime/model_files/tensor_source.h"

namespace convoke {

/// The tensors of a drafter. Of a directory the first of these that is there:
///
///   model.safetensors, model.safetensors.index.json, pytorch_model.bin,
///   pytorch_model.bin.index.json, medusa_lm_head.safetensors, medusa_lm_head.pt
///
/// so that safetensors are preferred where a publisher offers both. Of a file that file, whatever
/// its name: *.index.json names files beside it; a file of torch.save is known by its first bytes
/// or its ending (.bin, .pt, .pth, .ckpt); anything else is read as safetensors.
///
/// A source over several files describes itself by its index. Throws Error(kModel) (kResource for a
/// file that cannot be read) that names file and tensor; if a directory has none of the files, what
/// was looked for.
std::unique_ptr<TensorSource> open_head_checkpoint(const std::filesystem::path& directory_or_file);

}  // namespace convoke
