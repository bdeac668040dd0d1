#include "runtime/heads/branch_factory.h"

#include <algorithm>
#include <thread>

#include "kernels/check.h"
#include "kernels/cpu/cpu_backend.h"
#include "runtime/heads/draft_transformer.h"
#include "runtime/heads/eagle3_head.h"

namespace convoke {
namespace {

template <typename Head>
std::unique_ptr<PagedBranchModel> open_head_model(HeadKind kind, const std::string& argument,
                                                  const DraftContext& context,
                                                  const BranchOptions& options, Backend& backend) {
  const TargetTensors target = open_target(context);
  const HeadConfig config = load_head_config(kind, argument, target.config);
  // A head of random numbers is as large as a trained one for this target would be.
  std::shared_ptr<const TensorSource> source =
      config.random ? random_head(Head::tensors(config, nullptr), target.config.checkpoint_dtype)
                    : open_head(argument);
  auto head =
      std::make_unique<Head>(backend, config, std::move(source), target,
                             HeadOptions{.limits = branch_limits(context, target.config, options),
                                         .shared_noise = options.shared_noise,
                                         .dtype = context.dtype,
                                         .float16 = context.float16,
                                         .float8 = options.float8});
  head->read_features_from(context.feature_ring);
  return head;
}

std::unique_ptr<PagedBranchModel> open_model(const std::string& method, const std::string& argument,
                                             const DraftContext& context,
                                             const BranchOptions& options, Backend& backend) {
  if (method == "draft-model") {
    return std::make_unique<DraftTransformer>(backend, argument, context, options);
  }
  const HeadKind kind = parse_head_kind(method);
  if (kind == HeadKind::kEagle) {
    return open_head_model<EagleHead>(kind, argument, context, options, backend);
  }
  if (kind == HeadKind::kEagle3) {
    return open_head_model<Eagle3Head>(kind, argument, context, options, backend);
  }
  throw_error(ErrorKind::kUsage, "--drafter {}: grows no branches", method);
}

}  // namespace

std::unique_ptr<Backend> make_draft_backend(const DraftContext& context) {
  if (context.make_backend) return context.make_backend();
  const int threads =
      context.threads > 0 ? context.threads : std::max(1, int(std::thread::hardware_concurrency()));
  const cpu::Isa isa =
      context.cpu_isa == "auto" ? cpu::best_isa() : cpu::parse_isa(context.cpu_isa);
  return cpu::make_cpu_backend({.threads = threads, .isa = isa});
}

BranchLimits branch_limits(const DraftContext& context, const ModelConfig& target,
                           const BranchOptions& options) {
  return {
      .places = context.max_sequences,
      .scratch_slots = options.scratch_slots,
      .max_rows = options.max_rows,
      .max_positions = context.max_model_len > 0 ? context.max_model_len : target.max_positions};
}

std::unique_ptr<BranchModel> open_branch_model(const std::string& method,
                                               const std::string& argument,
                                               const DraftContext& context,
                                               const BranchOptions& options, Backend& backend) {
  return open_model(method, argument, context, options, backend);
}

std::unique_ptr<BranchModel> open_branch_model(const std::string& method,
                                               const std::string& argument,
                                               const DraftContext& context,
                                               const BranchOptions& options) {
  std::unique_ptr<Backend> backend = make_draft_backend(context);
  std::unique_ptr<PagedBranchModel> model =
      open_model(method, argument, context, options, *backend);
  model->own(std::move(backend));
  return model;
}

}  // namespace convoke
