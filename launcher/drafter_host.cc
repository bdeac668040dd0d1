#include "launcher/drafter_host.h"

#include <unistd.h>

#include <atomic>
#include <thread>

#include "actors/drafter_actor.h"
#include "actors/drafter_process.h"
#include "actors/zmq_transport.h"
#include "kernels/check.h"
#include "parallel/launch.h"

namespace convoke {
namespace {

std::string host_name() {
  char name[256] = {};
  return gethostname(name, sizeof name - 1) == 0 ? name : "localhost";
}

class DrafterThread : public DrafterHost {
 public:
  DrafterThread(const DrafterSpec& spec, const std::string& endpoint, const DraftContext& context)
      : drafter_(make_drafter(spec, context)) {
    options_.vocabulary = context.vocabulary;
    options_.lookahead_count = draft_needs(spec, ModelConfig::load(context.model)).lookahead_count;
    options_.ahead = spec.ahead.value_or(false);  // it shares the target's cores
    options_.host = host_name();
    options_.faults = DrafterFaults::from_environment();
    thread_ = std::thread([this, endpoint] {
      const std::unique_ptr<Link> link = make_zmq_link(endpoint);
      run_drafter(*link, *drafter_, options_, stop_);
    });
  }
  ~DrafterThread() override {
    stop_.store(true);
    thread_.join();
  }

 private:
  std::unique_ptr<Drafter> drafter_;
  DrafterActorOptions options_;
  std::atomic<bool> stop_{false};
  std::thread thread_;
};

class DrafterChild : public DrafterHost {
 public:
  explicit DrafterChild(DrafterProcessOptions options) : process_(std::move(options)) {}

 private:
  DrafterProcess process_;  // its destructor ends the child
};

}  // namespace

std::unique_ptr<DrafterHost> make_drafter_process(const DrafterSpec& spec,
                                                  const std::string& endpoint,
                                                  const DraftContext& context, int rank,
                                                  const std::string& role) {
  DrafterProcessOptions options;
  options.worker.endpoint = endpoint;
  options.worker.drafter = spec.text();
  options.worker.shared_noise = spec.shared_noise;
  options.worker.ahead = spec.ahead.value_or(rank > 0);  // a rank has cores of its own
  options.worker.context = context;
  options.worker.rank = rank;
  options.worker.host = host_name();
  options.worker.role = role;
  options.environment = environment_without_launcher(process_environment());
  return std::make_unique<DrafterChild>(std::move(options));
}

std::unique_ptr<DrafterHost> make_drafter_host(const DrafterSpec& spec,
                                               const std::string& placement,
                                               const std::vector<std::string>& endpoints,
                                               const DraftContext& context) {
  if (placement == "process") {
    return make_drafter_process(spec, endpoints.back(), context, 0, "drafter");
  }
  return std::make_unique<DrafterThread>(spec, endpoints.front(), context);
}

}  // namespace convoke
