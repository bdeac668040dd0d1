// A drafting head's config.json from hostile bytes, read as each kind of head. What parses must
// name layers that the target has and widths that can be computed with.
#include <cstdint>
#include <string_view>

#include "kernels/check.h"
#include "runtime/heads/head_config.h"

namespace {

const convoke::ModelConfig& target() {
  static const auto config = convoke::ModelConfig::parse(
      R"({"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 64,
          "intermediate_size": 96, "num_hidden_layers": 6, "num_attention_heads": 4,
          "num_key_value_heads": 2, "vocab_size": 96, "max_position_embeddings": 64,
          "rms_norm_eps": 1e-5, "hidden_act": "silu", "torch_dtype": "bfloat16"})",
      "", "target");
  return config;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using convoke::HeadKind;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  for (const HeadKind kind : {HeadKind::kEagle, HeadKind::kEagle3, HeadKind::kMedusa}) {
    try {
      const convoke::HeadConfig head =
          convoke::parse_head_config(kind, text, "head/config.json", target());
      CONVOKE_CHECK_EQ(head.target_hidden, 64);
      CONVOKE_CHECK_EQ(head.vocabulary, 96);
      for (const int layer : head.feature_layers) CONVOKE_CHECK(0 <= layer && layer <= 6);
      if (kind == HeadKind::kEagle3) CONVOKE_CHECK(!head.feature_layers.empty());
      if (kind == HeadKind::kMedusa) continue;
      CONVOKE_CHECK(head.layer.hidden > 0 && head.layer.head_dim > 0);
      CONVOKE_CHECK_EQ(head.layer.heads % head.layer.kv_heads, 0);
      CONVOKE_CHECK(head.draft_vocabulary > 0 && head.draft_vocabulary <= 96);
    } catch (const convoke::Error&) {
    }
  }
  return 0;
}
