// The tiny models of tests/golden/models with what transformers computes for them.
#pragma once

#include <cstdint>
#include <filesystem>
#include <iosfwd>
#include <string>
#include <vector>

namespace convoke {

struct GoldenModel {
  std::string name;                 ///< "llama-gqa-bf16"
  std::filesystem::path directory;  ///< a Hugging Face model directory
  int64_t parameters = 0;
  std::vector<float> inverse_frequencies;  ///< [head_dim / 2], computed in float32

  std::vector<int32_t> prompt;             ///< 20 to 40 ids
  std::vector<int> positions;              ///< the last few of `prompt`
  std::vector<std::vector<float>> logits;  ///< [positions][vocabulary]
  /// With the inputs of linear layers, keys and values rounded to bfloat16; float8_models only.
  std::vector<std::vector<float>> rounded_logits;
  std::vector<int32_t> short_prompt;  ///< one id
  std::vector<float> short_logits;    ///< [vocabulary]

  // At the last position of `prompt`:
  std::vector<float> embedding;            ///< [hidden]
  std::vector<std::vector<float>> layers;  ///< [layers][hidden] residual stream after each layer
  std::vector<float> norm;                 ///< [hidden] after the last norm

  std::vector<int32_t> greedy;  ///< ids after `prompt` at temperature 0, end tokens not heeded
  float greedy_margin = 0.0f;   ///< least distance of the two largest logits on the way
};

/// Reads DIR/golden.json. Throws if it is not as tests/golden/README.md says.
GoldenModel load_golden_model(const std::filesystem::path& directory);

/// Names of the models in `models` (CONVOKE_SOURCE_DIR "/tests/golden/models"), sorted.
std::vector<std::string> golden_model_names(const std::filesystem::path& models);

/// Logits of several positions.
using LogitRows = std::vector<std::vector<float>>;
double norm(const std::vector<float>& v);
/// Between vectors of one size.
double distance(const std::vector<float>& a, const std::vector<float>& b);
bool same_bits(const LogitRows& a, const LogitRows& b);

/// Prints the name: what GoogleTest shows for a parameter.
void PrintTo(const GoldenModel& model, std::ostream* out);

}  // namespace convoke
