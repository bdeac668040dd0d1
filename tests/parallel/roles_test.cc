#include "parallel/roles.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"

namespace convoke {
namespace {

using Placement = DrafterPlacement;
using testing::HasSubstr;

struct Case {
  RoleRequest request;
  int tp;
  Placement placement;
};

// {world, tp, replicas, wants a drafter, placement}
const Case kCases[] = {
    {{1, 0, 1, true, Placement::kAuto}, 1, Placement::kThread},
    {{1, 0, 1, false, Placement::kAuto}, 1, Placement::kThread},
    {{1, 1, 1, true, Placement::kProcess}, 1, Placement::kProcess},
    {{2, 0, 1, true, Placement::kAuto}, 1, Placement::kRank},
    {{2, 0, 1, false, Placement::kAuto}, 2, Placement::kThread},
    {{2, 0, 1, true, Placement::kThread}, 2, Placement::kThread},
    {{2, 2, 1, true, Placement::kAuto}, 2, Placement::kThread},
    {{2, 1, 1, true, Placement::kRank}, 1, Placement::kRank},
    {{3, 0, 1, true, Placement::kAuto}, 2, Placement::kRank},
    {{3, 2, 1, true, Placement::kAuto}, 2, Placement::kRank},
    {{4, 0, 1, true, Placement::kAuto}, 4, Placement::kThread},
    {{4, 0, 1, false, Placement::kAuto}, 4, Placement::kThread},
    {{4, 0, 1, true, Placement::kProcess}, 4, Placement::kProcess},
    {{5, 0, 1, true, Placement::kAuto}, 4, Placement::kRank},
    {{9, 0, 1, true, Placement::kRank}, 8, Placement::kRank},
    {{8, 0, 1, true, Placement::kAuto}, 8, Placement::kThread},
    {{6, 0, 2, true, Placement::kAuto}, 2, Placement::kRank},
    {{6, 1, 3, true, Placement::kAuto}, 1, Placement::kRank},
    {{3, 0, 3, true, Placement::kAuto}, 1, Placement::kThread},
    {{4, 0, 2, false, Placement::kAuto}, 2, Placement::kThread},
    {{8, 2, 4, true, Placement::kThread}, 2, Placement::kThread},
};

TEST(AssignRoles, Table) {
  for (const Case& c : kCases) {
    const RoleRequest& r = c.request;
    const std::string what =
        fmt::format("{} ranks, tp {}, {} replicas", r.world_size, r.tp, r.replicas);
    const Roles roles = assign_roles(r);
    EXPECT_EQ(roles.tp, c.tp) << what;
    EXPECT_EQ(roles.replicas, r.replicas) << what;
    EXPECT_EQ(roles.placement, c.placement) << what;
    EXPECT_EQ(roles.drafter, r.wants_drafter) << what;
    ASSERT_EQ(int(roles.ranks.size()), r.world_size) << what;
    // Every rank has one role, found from both sides.
    std::vector<bool> seen(roles.ranks.size());
    for (int replica = 0; replica < r.replicas; ++replica) {
      const std::vector<int> shards = roles.shards_of(replica);
      ASSERT_EQ(int(shards.size()), c.tp);
      EXPECT_EQ(shards[0], roles.coordinator_of(replica));
      for (int t = 0; t < c.tp; ++t) {
        EXPECT_EQ(roles.ranks[size_t(shards[size_t(t)])], (Role{replica, Role::Kind::kShard, t}));
        seen[size_t(shards[size_t(t)])] = true;
      }
      const int drafter = roles.drafter_of(replica);
      EXPECT_EQ(drafter >= 0, roles.drafter_ranks()) << what;
      if (drafter < 0) continue;
      EXPECT_EQ(roles.ranks[size_t(drafter)], (Role{replica, Role::Kind::kDrafter, -1}));
      seen[size_t(drafter)] = true;
    }
    EXPECT_THAT(seen, testing::Each(true)) << what;
  }
}

TEST(AssignRoles, OrderOfTwoReplicasWithDrafters) {
  const Roles roles = assign_roles({6, 0, 2, true, Placement::kAuto});
  EXPECT_EQ(roles.describe(0), "coordinator of replica 0");
  EXPECT_EQ(roles.describe(1), "shard 1 of replica 0");
  EXPECT_EQ(roles.describe(2), "drafter of replica 0");
  EXPECT_EQ(roles.describe(3), "coordinator of replica 1");
  EXPECT_EQ(roles.describe(5), "drafter of replica 1");
}

std::string refusal(const RoleRequest& request) {
  try {
    assign_roles(request);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage);
    return error.what();
  }
  return "accepted";
}

TEST(AssignRoles, RefusalsSayWhatWouldFit) {
  EXPECT_THAT(refusal({6, 0, 1, true, Placement::kAuto}),
              HasSubstr("sizes that fit 1 replica: 1 (tp 1), 2 (tp 1 and a drafter rank), 2 (tp 2),"
                        " 3 (tp 2 and a drafter rank), 4 (tp 4), 5 (tp 4 and a drafter rank)"));
  EXPECT_THAT(refusal({3, 0, 1, false, Placement::kAuto}),
              HasSubstr("1 (tp 1), 2 (tp 2), 4 (tp 4), 8 (tp 8)"));
  EXPECT_THAT(refusal({4, 2, 1, true, Placement::kAuto}),
              HasSubstr("with --tp 2: 2 (tp 2), 3 (tp 2 and a drafter rank)"));
  EXPECT_THAT(refusal({4, 0, 1, true, Placement::kRank}), HasSubstr("3 (tp 2 and a drafter rank)"));
  EXPECT_THAT(refusal({1, 0, 1, true, Placement::kRank}), HasSubstr("2 (tp 1 and a drafter rank)"));
  EXPECT_THAT(refusal({3, 2, 1, true, Placement::kThread}), HasSubstr("2 (tp 2)"));
  EXPECT_THAT(refusal({5, 0, 2, true, Placement::kAuto}),
              HasSubstr("5 ranks cannot be dealt to 2 replicas"));
  EXPECT_THAT(refusal({1, 0, 2, true, Placement::kAuto}), HasSubstr("2 replicas"));
  EXPECT_THAT(refusal({3, 3, 1, true, Placement::kAuto}), HasSubstr("1, 2, 4 and 8"));
  EXPECT_THAT(refusal({3, -1, 1, true, Placement::kAuto}), HasSubstr("--tp -1"));
  EXPECT_THAT(refusal({3, 0, 0, true, Placement::kAuto}), HasSubstr("--replicas 0"));
}

TEST(DrafterPlacement, Names) {
  for (const char* name : {"auto", "thread", "process", "rank"}) {
    EXPECT_EQ(drafter_placement_name(parse_drafter_placement(name)), name);
  }
  EXPECT_THROW(parse_drafter_placement("Rank"), Error);
}

}  // namespace
}  // namespace convoke
