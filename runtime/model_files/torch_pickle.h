// The pickle inside a PyTorch checkpoint, read without executing anything.
//
// A pickle is a program for a small stack machine: it may import any Python object and call it.
// This reader knows the dozen things a dictionary of tensors is made of and refuses every other one
// by name. Sources: the opcodes as CPython's Lib/pickletools.py documents them; what torch.save
// writes, torch/serialization.py and torch/_utils.py.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "kernels/tensor.h"

namespace convoke {

/// A run of elements that lies in the archive entry data/<key>.
struct TorchStorage {
  std::string key;
  DType dtype = DType::kFloat32;
  uint64_t elements = 0;
};

/// A view of a storage: element (i, j, ..) is offset + i * strides[0] + j * strides[1] + ..
struct TorchTensor {
  std::string name;
  size_t storage = 0;            ///< index into TorchPickle::storages
  uint64_t offset = 0;           ///< in elements
  std::vector<int64_t> shape;    ///< empty for a scalar
  std::vector<int64_t> strides;  ///< in elements, as long as shape; never negative
  uint64_t elements() const;     ///< product of the shape
  bool contiguous() const;       ///< in C order; also true of fewer than two elements
};

struct TorchPickle {
  std::vector<TorchStorage> storages;  ///< each is used by a tensor
  std::vector<TorchTensor> tensors;    ///< in the order of the dictionary
};

/// Reads one pickle of protocol 2 to 5 that holds a dict or OrderedDict from names to tensors, or
/// such a dictionary under one key "state_dict", "model" or "module" (what training scripts save),
/// beside which there may be numbers, texts and None only. Other nesting is refused.
///
/// Known: collections.OrderedDict, torch.Size, torch._utils._rebuild_tensor, _rebuild_tensor_v2 and
/// _rebuild_parameter, the storages torch.FloatStorage, BFloat16Storage, HalfStorage, LongStorage
/// and BoolStorage, and the persistent ids of storages. torch's other storages are known by name
/// and refused with the tensor that uses them.
///
/// Every view lies inside its storage and has at most as many elements; whether a storage lies
/// inside the file is for the caller to see. Memory stays within a small multiple of the pickle's
/// size, time within a small multiple of its length, and nothing recurses. Throws Error(kModel)
/// that begins with `name` and says at which byte, or in which tensor, what is wrong.
TorchPickle parse_torch_pickle(std::span<const std::byte> pickle, const std::string& name);

}  // namespace convoke
