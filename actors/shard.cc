#include "actors/shard.h"

#include "actors/codec.h"
#include "kernels/check.h"

namespace convoke {

void LeadingShard::run(const StepPlan& plan, StepResult& result) {
  last_step_ = plan.step;
  if (communicator_.size() > 1) {
    encode_plan(plan, message_);
    communicator_.broadcast(message_, 0);
  }
  executor_.execute(plan, result);
}

void LeadingShard::finish() {
  if (communicator_.size() == 1) return;
  StepPlan plan;
  plan.step = last_step_ + 1;
  plan.last = true;
  encode_plan(plan, message_);
  communicator_.broadcast(message_, 0);
}

void run_shard(Communicator& communicator, ShardExecutor& executor) {
  std::vector<std::byte> message;
  StepPlan plan;
  StepResult result;
  uint64_t expected = 0;
  try {
    for (;;) {
      communicator.broadcast(message, 0);
      std::string why;
      if (!decode_plan(message, plan, &why)) {
        throw_error(ErrorKind::kPeer, "shard {} received a malformed step plan: {}",
                    communicator.rank(), why);
      }
      if (plan.last) return;
      // Plans are a sequence without gaps; anything else means the mirrored state is wrong. Those
      // that time passes are outside of it: step 0.
      if (plan.step != 0) {
        if (expected != 0 && plan.step != expected) {
          throw_error(ErrorKind::kPeer, "shard {} expected step {} and received step {}",
                      communicator.rank(), expected, plan.step);
        }
        expected = plan.step + 1;
      }
      executor.execute(plan, result);
    }
  } catch (const Error& error) {
    communicator.abort(error.what());
    throw;
  }
}

}  // namespace convoke
