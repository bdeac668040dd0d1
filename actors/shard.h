// The shard actor: obeys step plans. Shard 0 of a replica shares its thread with the coordinator
// and sends every plan to the others through the communicator's broadcast.
#pragma once

#include <vector>

#include "actors/coordinator.h"
#include "parallel/communicator.h"
#include "runtime/shard_executor.h"

namespace convoke {

/// Shard 0: broadcasts a plan (if there is anybody to hear it) and executes its own part.
class LeadingShard : public StepRunner {
 public:
  LeadingShard(Communicator& communicator, ShardExecutor& executor)
      : communicator_(communicator), executor_(executor) {}

  /// Throws Error(kPeer / kTimeout) when another shard is gone.
  void run(const StepPlan& plan, StepResult& result) override;
  /// Lets the other shards leave their loops.
  void finish();

 private:
  Communicator& communicator_;
  ShardExecutor& executor_;
  std::vector<std::byte> message_;
  uint64_t last_step_ = 0;
};

/// Shards 1..: receives and executes plans until one is marked last. Any error is passed to the
/// other shards (Communicator::abort) before it is thrown on.
void run_shard(Communicator& communicator, ShardExecutor& executor);

}  // namespace convoke
