// Sums between devices: the same bits as on the host, replayed and not, and how waits for a rank
// that is missing end.
#include <gmock/gmock.h>

#include "parallel/nccl_transport.h"
#include "tests/kernels/cuda/ranks_fixture.h"

namespace convoke {
namespace {

using ::testing::HasSubstr;
using testing::ReplicaShape;
using testing::TestReplica;
using testing::TestRequest;

TEST(DeviceCommunicator, SumsAreTheTreeOfTheHostAtEverySize) {
  for (const int size : {2, 4, 8}) {
    const int64_t large = kSmallSumBytes / 4 + 37;  // no multiple of anything
    Ranks ranks({.size = size, .capacity = large});
    int gathers = 0, exchanges = 0;
    for (const int64_t count : {int64_t(1), int64_t(1000), kSmallSumBytes / 4, large}) {
      SCOPED_TRACE(::testing::Message() << size << " ranks, " << count << " floats");
      SumCase sums(size, count);
      ranks.add(sums.contributions, sums.targets);
      sums.expect_summed();
      const bool is_large = count * 4 > kSmallSumBytes;
      gathers += 1, exchanges += is_large ? 1 : 0;
      EXPECT_EQ(ranks.transports.all_gathers(), gathers);
      EXPECT_EQ(ranks.transports.all_to_alls(), exchanges);
    }
  }
}

TEST(DeviceCommunicator, ARankThatDoesNotComeIsNamed) {
  Ranks ranks({.capacity = 100, .deadline = 0.4});
  EXPECT_THAT(error_of_sum(ranks, false), HasSubstr("rank 1"));
}

TEST(DeviceCommunicator, AnOperationThatHangsThoughAllAreThereEnds) {
  Ranks ranks({.capacity = 100, .deadline = 0.4});
  ranks.transports.stall(1);
  EXPECT_THAT(error_of_sum(ranks, true), HasSubstr("did not end within 0.2 s"));
}

TEST(DeviceCommunicator, AnErrorOfTheLibraryEndsTheWait) {
  Ranks ranks({.capacity = 100});
  ranks.transports.fail(0);
  EXPECT_THAT(error_of_sum(ranks, false), HasSubstr("an emulated link is down"));
}

TEST(DeviceCommunicator, AbortEndsTheWaitWithItsReason) {
  Ranks ranks({.capacity = 100});
  std::jthread supervisor([&] {
    std::this_thread::sleep_for(std::chrono::milliseconds(50));
    ranks.communicators[0]->abort("rank 1 on host h2 is dead");
  });
  EXPECT_EQ(error_of_sum(ranks, false), "rank 1 on host h2 is dead");
  EXPECT_NE(error_of_sum(ranks, false), "") << "it is broken from then on";
}

TEST(DeviceCommunicator, StepsAreOneGraphAndGiveThePlainBits) {
  const auto directory = kGoldenModels / "llama-gqa-bf16";
  std::vector<TestRequest> requests(3);
  for (size_t i = 0; i < requests.size(); ++i) {
    requests[i].prompt = {int32_t(3 + i), 9, 4, 71, 5};
    if (i == 2) testing::use_every_processor(requests[i].sampling);  // whole rows of logits
    requests[i].sampling.max_tokens = 8;
    requests[i].sampling.ignore_eos = true;
    requests[i].sampling.temperature = i == 0 ? 0.0f : 0.9f;
  }
  TestReplica alone(directory, on_gpus({}, DType::kBFloat16, {.graphs = false}));
  const auto plain = alone.run(requests);

  const emulation::Transports* transports = nullptr;
  auto connected = std::make_shared<emulation::Transports>(2);
  transports = connected.get();
  ReplicaShape shape{.tp = 2};
  shape.make_communicator = [connected](Backend& backend, std::unique_ptr<Communicator> host) {
    const int rank = host->rank();
    return make_device_communicator(backend, std::move(host), {.transport = connected->take(rank)},
                                    {.reduce_capacity = 1 << 18, .deadline_seconds = 120});
  };
  TestReplica replica(directory, on_gpus(shape, DType::kBFloat16));
  EXPECT_EQ(replica.run(requests), plain);
  const auto trees = [&] {
    return testing::mixed_trees(requests, plain, replica.config().vocabulary, 5);
  };
  for (int i = 0; i < 2; ++i) EXPECT_EQ(replica.run(requests, trees()), plain);
  const cuda::GraphCounters before = cuda::graph_counters(replica.backend(1));
  const int enqueued = transports->all_gathers();
  const emulation::DeviceCounters device_before = emulation::device_counters();
  EXPECT_EQ(replica.run(requests, trees()), plain);
  const cuda::GraphCounters& after = cuda::graph_counters(replica.backend(1));
  EXPECT_EQ(after.replayed - before.replayed, uint64_t(replica.steps()));
  EXPECT_EQ(transports->all_gathers(), enqueued) << "they are in the graphs";
  // Of both ranks, logits that are filtered included: picks alone meet on the hosts.
  const emulation::DeviceCounters& device = emulation::device_counters();
  EXPECT_EQ(device.to_device - device_before.to_device, 2 * uint64_t(replica.steps()));
  EXPECT_EQ(device.to_host - device_before.to_host, 2 * uint64_t(replica.steps()));
  EXPECT_EQ(device.allocations, device_before.allocations);
}

TEST(NcclTransport, ThreadsThatShareADeviceCannotUseIt) {
  const std::vector<RankPlace> apart{{"h1", "0", 7}, {"h1", "1", 7}, {"h2", "0", 7}};
  EXPECT_EQ(choose_transport(apart).why_not, "");
  EXPECT_EQ(choose_transport(apart).shares_device, std::vector<bool>(3, false));
  const std::vector<RankPlace> threads{{"h1", "0", 7}, {"h1", "0", 7}};
  EXPECT_THAT(choose_transport(threads).why_not, HasSubstr("threads that share GPU 0 of host h1"));
}

TEST(NcclTransport, ProcessesThatShareADeviceAreToldApart) {
  const std::vector<RankPlace> places{{"h1", "0", 7}, {"h1", "0", 8}, {"h1", "1", 9}};
  EXPECT_EQ(choose_transport(places).why_not, "");
  EXPECT_EQ(choose_transport(places).shares_device, (std::vector<bool>{true, true, false}));
}

TEST(NcclTransport, EveryRankNeedsTheLibrary) {
  const std::vector<RankPlace> places{{"h1", "0", 7}, {"h2", "0", 7, false}};
  EXPECT_THAT(choose_transport(places).why_not, HasSubstr("shard 1 on host h2 has no NCCL"));
}

}  // namespace
}  // namespace convoke
