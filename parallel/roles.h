// Which rank of a job does what. Pure arithmetic.
//
// Ranks are dealt replica by replica: tp shard ranks, then, if drafters have ranks of their own,
// one drafter rank. So a job has replicas * (tp + 1) or replicas * tp ranks.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace convoke {

/// Where a replica's drafter runs.
enum class DrafterPlacement {
  kAuto,     ///< a rank of its own where the numbers leave one, else a thread
  kThread,   ///< a thread of the coordinator's rank
  kProcess,  ///< a child process of the coordinator's rank: no rank either
  kRank      ///< a rank of its own
};

/// "auto", "thread", "process", "rank"; throws Error(kUsage) listing them.
DrafterPlacement parse_drafter_placement(std::string_view name);
std::string_view drafter_placement_name(DrafterPlacement placement);

struct RoleRequest {
  int world_size = 1;
  int tp = 0;  ///< 0 = derived from the others
  int replicas = 1;
  bool wants_drafter = true;  ///< false: method "none", no drafter anywhere
  DrafterPlacement placement = DrafterPlacement::kAuto;
};

struct Role {
  enum class Kind { kShard, kDrafter };
  int replica = 0;
  Kind kind = Kind::kShard;
  int tp_rank = 0;  ///< of a shard; 0 is the replica's coordinator. -1 for a drafter

  bool operator==(const Role&) const = default;
};

struct Roles {
  int tp = 1;
  int replicas = 1;
  DrafterPlacement placement = DrafterPlacement::kThread;  ///< settled: never kAuto
  bool drafter = true;                                     ///< there is one at all
  std::vector<Role> ranks;                                 ///< [world_size]

  bool drafter_ranks() const { return drafter && placement == DrafterPlacement::kRank; }
  std::vector<int> shards_of(int replica) const;  ///< world ranks, by tp rank
  int coordinator_of(int replica) const;          ///< world rank
  int drafter_of(int replica) const;              ///< world rank, or -1 without a drafter rank
  /// "shard 1 of replica 0", "coordinator of replica 0", "drafter of replica 1": for messages.
  std::string describe(int rank) const;
};

/// With tp given, the world's size decides whether there is a drafter rank (kAuto). With tp = 0 and
/// n = world_size / replicas ranks per replica:
///  - if a drafter is wanted, may have a rank, and n - 1 is 1, 2, 4 or 8: tp = n - 1 and a drafter
///    rank. So of two ranks one drafts (n = 2 could also be tp 2: say --tp 2 for that);
///  - else, unless placement is kRank: tp = n, if that is 1, 2, 4 or 8, and the drafter is a
///  thread.
/// A single rank is tp 1. Throws Error(kUsage) that says which numbers would fit.
/// Whether the model can be cut by tp is not asked here (make_shard_plan).
Roles assign_roles(const RoleRequest& request);

}  // namespace convoke
