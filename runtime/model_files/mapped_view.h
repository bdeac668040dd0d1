// Views of tensors in a mapped file, and hints about their pages.
#pragma once

#include <vector>

#include "kernels/tensor.h"
#include "runtime/model_files/mapped_file.h"

namespace convoke {

/// A contiguous tensor as TensorSource::tensor describes it.
TensorView view_of_shape(const std::vector<int64_t>& shape, DType dtype, const std::byte* data);

/// Whether the view's first element lies in the file; false for an empty view.
bool holds(const MappedFile& file, const TensorView& view);

/// TensorSource::will_need and done_with for a view that the file holds.
void advise_will_need(const MappedFile& file, const TensorView& view);
void advise_done(const MappedFile& file, const TensorView& view);

}  // namespace convoke
