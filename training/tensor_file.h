// Tensors to files: safetensors, as a head is read by the runtime and as a checkpoint comes back.
#pragma once

#include <filesystem>
#include <vector>

#include "training/objective.h"

namespace convoke::training {

/// Writes a safetensors file whole or not at all. Dtypes: float32, bfloat16, float16, int64, bool.
/// Throws Error(kResource) naming the file.
void write_tensors(const std::filesystem::path& file, const std::vector<Parameter>& tensors);

/// All tensors of a file, on the CPU. Throws Error(kModel) for what is no safetensors file.
std::vector<Parameter> read_tensors(const std::filesystem::path& file);

/// Copies `values` into the tensors of the same names. Throws Error(kModel) naming file and tensor
/// if one is missing or of another shape.
void restore(const std::vector<Parameter>& into, const std::vector<Parameter>& values,
             const std::string& prefix, const std::filesystem::path& file);

}  // namespace convoke::training
