// The tensors of a head's file, checked by name and shape before any memory is taken.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "runtime/drafter.h"
#include "runtime/heads/head_config.h"
#include "runtime/model_files/tensor_source.h"
#include "runtime/weights.h"

namespace convoke {

struct HeadTensor {
  enum class Type { kFloat, kInt64, kBool };
  std::string name;
  std::vector<int64_t> shape;
  Type type = Type::kFloat;
  bool optional = false;
};

/// Those of a decoder layer whose projections take `inputs` columns: all but the norm before its
/// attention. Biases of queries, keys and values are expected where the config says so, or says
/// nothing and `source` (may be null) has one of them.
std::vector<HeadTensor> layer_tensors(const HeadConfig& config, const std::string& prefix,
                                      int64_t inputs, const TensorSource* source);
/// `d2t` and `t2d`: the first is needed where the draft vocabulary is reduced.
void add_vocabulary_tensors(const HeadConfig& config, std::vector<HeadTensor>& list);
/// The layer's config with the biases that `source` has.
ModelConfig with_biases(const HeadConfig& config, const TensorSource& source,
                        const std::string& prefix);
/// What a head of this dtype is held and computed in, given --dtype; as weight_dtype().
DType head_dtype(const std::string& flag, DType checkpoint, bool has_float16);
/// What MatrixSource::dtype is to be for weights that are computed in `dtype`: with `float8`, 8
/// bits in the place of bfloat16. They are rounded when they are packed; a drafter need not be
/// exact.
DType head_storage(DType dtype, bool float8);
/// What the features of a head with these inputs are brought to kernels in: float16 by way of
/// float32, which the host can write.
inline DType staged_feature_dtype(DType activation) {
  return activation == DType::kFloat16 ? DType::kFloat32 : activation;
}

/// Throws one Error(kModel) that names file and tensors for whatever is missing, surplus (rotary
/// inverse frequencies of old checkpoints are let pass), of another shape or of a dtype that will
/// not do.
void check_head_tensors(const std::vector<HeadTensor>& expected, const TensorSource& source,
                        const HeadConfig& config);

/// `expected` without the optional ones, with random values: a head to measure costs with.
std::shared_ptr<const TensorSource> random_head(const std::vector<HeadTensor>& expected,
                                                DType dtype);

/// Opens a directory or a file, as published or as safetensors.
std::shared_ptr<const TensorSource> open_head(const std::filesystem::path& directory_or_file);

/// The target's tensors that a head works with: frozen embedding and lm_head.
struct TargetTensors {
  ModelConfig config;
  std::shared_ptr<const TensorSource> source;
  SharedWeights shared;  ///< of the target itself, with which a sibling of its backend computes

  /// [vocabulary, hidden] for kernels of `backend`: the target's own memory where it is shared.
  ResidentMatrix resident_embedding(Backend& backend) const;
  /// lm_head packed in `storage`: the target's own where it is shared and stored so.
  std::shared_ptr<const PackedMatrix> packed_lm_head(Backend& backend, DType storage) const;
  /// [vocabulary, hidden] in host memory; the embedding where they are tied.
  TensorView lm_head() const;

 private:
  void refuse_quantized_lm_head() const;
};
TargetTensors open_target(const DraftContext& context);

/// Which tokens the columns of a head's logits stand for.
struct DraftVocabulary {
  std::vector<int32_t> tokens;  ///< ascending ids; empty: column v is token v
  /// Row of the head's own lm_head for each of `tokens`: 0, 1, ... unless the file has them in
  /// another order.
  std::vector<int32_t> rows;
};
/// From `d2t` (offsets: column d is token d + d2t[d]), checked against `t2d` (a mask of the
/// vocabulary) where that is there too. Throws Error(kModel) naming file and tensor.
DraftVocabulary read_draft_vocabulary(const HeadConfig& config, const TensorSource& source);

/// Some rows of a matrix, copied side by side.
class GatheredRows {
 public:
  GatheredRows(const TensorView& from, const std::vector<int32_t>& rows);
  const TensorView& view() const { return view_; }

 private:
  std::vector<std::byte> bytes_;
  TensorView view_;
};

}  // namespace convoke
