// Weights of 8 bits as Hugging Face checkpoints publish them: what config.json says of them.
//
// Three forms, all with a `NAME.weight` of F8_E4M3 and a `NAME.weight_scale` for every linear layer
// that is not left alone, such that weight times scale is what was quantised:
//  - quant_method "compressed-tensors" (vllm-project/compressed-tensors,
//  quantization/quant_config.py
//    and quant_args.py): config_groups with weights of type float, 8 bits, strategy "channel" or
//    "tensor", format "float-quantized" or (older) "naive-quantized"; layers in `ignore` are left
//    alone, named whole or as "re:" and a regular expression. Older files call the block
//    compression_config.
//  - "fp8" (neuralmagic/AutoFP8; `FineGrainedFP8` of transformers where it has no blocks):
//    activation_scheme "static" or "dynamic", `ignored_layers` or `modules_to_not_convert`.
//  - "fbgemm_fp8" (transformers, FbgemmFp8Config): `modules_to_not_convert`.
// Weights alone are taken: inputs of products stay bfloat16, and scales for inputs, outputs and the
// key/value cache are let pass and not used.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace convoke {

class JsonObject;

struct Quantization {
  std::string method;                ///< quant_method
  std::vector<std::string> ignored;  ///< of modules that are left alone
  bool whole_names = false;          ///< they name modules, not runs of a module's components
  bool head = false;                 ///< lm_head is a linear layer like others

  /// Whether this linear layer ("model.layers.0.mlp.up_proj") has weights of 8 bits.
  bool covers(std::string_view module) const;

  /// Reads config.json's block `key`. What is not supported is added to the problems of `config`.
  static Quantization read(JsonObject& config, const char* key);
};

/// A tensor of a quantised checkpoint that we have no use for: scales of inputs, outputs, caches.
bool is_unused_scale(std::string_view tensor);

}  // namespace convoke
