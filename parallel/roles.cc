#include "parallel/roles.h"

#include <array>
#include <utility>

#include "kernels/check.h"

namespace convoke {
namespace {

constexpr std::array<std::pair<std::string_view, DrafterPlacement>, 4> kPlacements = {{
    {"auto", DrafterPlacement::kAuto},
    {"thread", DrafterPlacement::kThread},
    {"process", DrafterPlacement::kProcess},
    {"rank", DrafterPlacement::kRank},
}};

bool valid_tp(int tp) {
  return tp == 1 || tp == 2 || tp == 4 || tp == 8;
}

bool may_have_rank(const RoleRequest& r) {
  return r.wants_drafter &&
         (r.placement == DrafterPlacement::kAuto || r.placement == DrafterPlacement::kRank);
}

bool may_go_without(const RoleRequest& r) {
  return !r.wants_drafter || r.placement != DrafterPlacement::kRank;
}

// "2 (tp 1 and a drafter), 3 (tp 2 and a drafter), ..." for the request's replicas and placement.
std::string fitting_sizes(const RoleRequest& r) {
  std::string list;
  const auto add = [&](int tp, bool rank) {
    list += fmt::format("{}{} (tp {}{})", list.empty() ? "" : ", ", r.replicas * (tp + rank), tp,
                        rank ? " and a drafter rank" : "");
  };
  for (const int tp : {1, 2, 4, 8}) {
    if (r.tp != 0 && r.tp != tp) continue;
    if (may_go_without(r)) add(tp, false);
    if (may_have_rank(r)) add(tp, true);
  }
  return list;
}

[[noreturn]] void refuse(const RoleRequest& r, const std::string& why) {
  throw_error(ErrorKind::kUsage, "{}; sizes that fit {} replica{}{}: {}", why, r.replicas,
              r.replicas == 1 ? "" : "s", r.tp != 0 ? fmt::format(" with --tp {}", r.tp) : "",
              fitting_sizes(r));
}

// Sets tp and whether the drafter has a rank.
std::pair<int, bool> settle(const RoleRequest& r) {
  const int n = r.world_size / r.replicas;
  if (r.tp != 0) {
    if (n == r.tp + 1 && may_have_rank(r)) return {r.tp, true};
    if (n == r.tp && may_go_without(r)) return {r.tp, false};
  } else {
    if (may_have_rank(r) && valid_tp(n - 1)) return {n - 1, true};
    if (may_go_without(r) && valid_tp(n)) return {n, false};
  }
  refuse(r, fmt::format("{} rank{} per replica {} no role for each", n, n == 1 ? "" : "s",
                        n == 1 ? "leaves" : "leave"));
}

}  // namespace

DrafterPlacement parse_drafter_placement(std::string_view name) {
  for (const auto& [known, placement] : kPlacements) {
    if (name == known) return placement;
  }
  throw_error(ErrorKind::kUsage,
              "drafter placement '{}' is not known; one of: auto, thread, process, rank", name);
}

std::string_view drafter_placement_name(DrafterPlacement placement) {
  return kPlacements[size_t(placement)].first;
}

Roles assign_roles(const RoleRequest& r) {
  CONVOKE_CHECK_GE(r.world_size, 1);
  if (r.replicas < 1) throw_error(ErrorKind::kUsage, "--replicas {}: at least 1", r.replicas);
  if (r.tp != 0 && !valid_tp(r.tp)) {
    throw_error(ErrorKind::kUsage, "--tp {}: the possible sizes are 1, 2, 4 and 8", r.tp);
  }
  if (r.world_size % r.replicas != 0) {
    refuse(r, fmt::format("{} ranks cannot be dealt to {} replicas", r.world_size, r.replicas));
  }
  const auto [tp, drafter_rank] = settle(r);
  Roles roles;
  roles.tp = tp;
  roles.replicas = r.replicas;
  roles.drafter = r.wants_drafter;
  roles.placement = drafter_rank                                ? DrafterPlacement::kRank
                    : r.placement == DrafterPlacement::kProcess ? DrafterPlacement::kProcess
                                                                : DrafterPlacement::kThread;
  for (int replica = 0; replica < r.replicas; ++replica) {
    for (int t = 0; t < tp; ++t) roles.ranks.push_back({replica, Role::Kind::kShard, t});
    if (drafter_rank) roles.ranks.push_back({replica, Role::Kind::kDrafter, -1});
  }
  CONVOKE_CHECK_EQ(int(roles.ranks.size()), r.world_size);
  return roles;
}

std::vector<int> Roles::shards_of(int replica) const {
  std::vector<int> shards;
  for (int t = 0; t < tp; ++t) shards.push_back(coordinator_of(replica) + t);
  return shards;
}

int Roles::coordinator_of(int replica) const {
  CONVOKE_CHECK(0 <= replica && replica < replicas);
  return replica * (tp + (drafter_ranks() ? 1 : 0));
}

int Roles::drafter_of(int replica) const {
  return drafter_ranks() ? coordinator_of(replica) + tp : -1;
}

std::string Roles::describe(int rank) const {
  const Role& role = ranks.at(size_t(rank));
  if (role.kind == Role::Kind::kDrafter) return fmt::format("drafter of replica {}", role.replica);
  if (role.tp_rank == 0) return fmt::format("coordinator of replica {}", role.replica);
  return fmt::format("shard {} of replica {}", role.tp_rank, role.replica);
}

}  // namespace convoke
