// config.json and generation_config.json from hostile bytes: the two texts are separated by a
// zero byte. What parses must be consistent enough to be planned with.
#include <cmath>
#include <cstdint>
#include <string_view>

#include "kernels/check.h"
#include "runtime/model_config.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  const std::string_view all(reinterpret_cast<const char*>(data), size);
  const size_t cut = all.find('\0');
  const std::string_view config = all.substr(0, cut);
  const std::string_view generation =
      cut == std::string_view::npos ? std::string_view() : all.substr(cut + 1);
  try {
    const auto model = convoke::ModelConfig::parse(config, generation, "model");
    CONVOKE_CHECK_EQ(model.window.size(), static_cast<size_t>(model.layers));
    CONVOKE_CHECK_EQ(model.heads % model.kv_heads, 0);
    CONVOKE_CHECK(model.parameter_count() > 0);
    // Names that patterns of layers are matched with.
    for (const char* module : {"lm_head", "model.layers.0.self_attn.q_proj", ""}) {
      CONVOKE_CHECK(!model.is_quantized(module) || model.auto_dtype() == convoke::DType::kBFloat16);
    }
    for (const double frequency : convoke::rope_inverse_frequencies(model)) {
      CONVOKE_CHECK(std::isfinite(frequency) && frequency > 0);
    }
  } catch (const convoke::Error&) {
  }
  try {
    (void)convoke::GenerationDefaults::parse(generation, "model");
  } catch (const convoke::Error&) {
  }
  return 0;
}
