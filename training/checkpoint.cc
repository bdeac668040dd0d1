#include "training/checkpoint.h"

#include <torch/types.h>

#include <bit>

#include "kernels/check.h"
#include "training/tensor_file.h"

namespace convoke::training {
namespace {

constexpr char kState[] = "trainer.state";
constexpr int64_t kVersion = 1;

std::vector<Parameter> prefixed(const char* prefix, const std::vector<Parameter>& tensors) {
  std::vector<Parameter> named = tensors;
  for (Parameter& tensor : named) tensor.name = prefix + tensor.name;
  return named;
}

}  // namespace

void Checkpoint::save(const TrainState& state, const std::vector<Parameter>& parameters,
                      const std::vector<Parameter>& optimizer,
                      const std::vector<Parameter>& best) const {
  std::vector<Parameter> all = {
      {kState, torch::tensor({kVersion, state.step, state.best_step,
                              std::bit_cast<int64_t>(state.best_score), state.looks_without_gain},
                             torch::kInt64)}};
  for (const auto& part : {prefixed("parameter.", parameters), prefixed("optimizer.", optimizer),
                           prefixed("best.", best)}) {
    all.insert(all.end(), part.begin(), part.end());
  }
  write_tensors(file_, all);
}

TrainState Checkpoint::load(const std::vector<Parameter>& parameters,
                            const std::vector<Parameter>& optimizer,
                            std::vector<Parameter>& best) const {
  const std::vector<Parameter> all = read_tensors(file_);
  const torch::Tensor numbers = torch::zeros({5}, torch::kInt64);
  restore({{kState, numbers}}, all, "", file_);
  const int64_t* const n = numbers.data_ptr<int64_t>();
  if (n[0] != kVersion) {
    throw_error(ErrorKind::kModel, "{}: is of version {}, this program writes version {}",
                file_.string(), n[0], kVersion);
  }
  restore(parameters, all, "parameter.", file_);
  restore(optimizer, all, "optimizer.", file_);
  const TrainState state{n[1], n[2], std::bit_cast<double>(n[3]), n[4]};
  best.clear();
  if (state.best_step < 0) return state;
  for (const Parameter& parameter : parameters) {
    best.push_back({parameter.name, torch::empty_like(parameter.value.detach())});
  }
  restore(best, all, "best.", file_);
  return state;
}

void Checkpoint::remove() const {
  std::error_code ignored;
  std::filesystem::remove(file_, ignored);
}

}  // namespace convoke::training
