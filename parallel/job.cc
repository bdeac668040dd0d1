#include "parallel/job.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <climits>
#include <cstring>
#include <map>
#include <thread>

#include "parallel/launcher_guard.h"
#include "parallel/mpi_communicator.h"
#include "parallel/mpi_link.h"
#include "parallel/watchdog.h"

namespace convoke {
namespace {

// In a failed job: for MPI_Abort, and for the launcher to end by itself (it takes 3 s by default).
constexpr int kAbortSeconds = 2;
constexpr double kLauncherSeconds = 5;

std::string host_name() {
  char name[HOST_NAME_MAX + 1] = {};
  if (gethostname(name, sizeof name - 1) != 0 || name[0] == '\0') return "unknown";
  return name;
}

void append(std::string& packed, const std::string& item) {
  const uint64_t length = item.size();
  packed.append(reinterpret_cast<const char*>(&length), sizeof length);
  packed += item;
}

std::vector<std::string> unpack(const std::string& packed, size_t count) {
  std::vector<std::string> items;
  size_t at = 0;
  for (size_t i = 0; i < count; ++i) {
    uint64_t length = 0;
    CONVOKE_CHECK_LE(at + sizeof length, packed.size());
    std::memcpy(&length, packed.data() + at, sizeof length);
    at += sizeof length;
    CONVOKE_CHECK_LE(at + length, packed.size());
    items.push_back(packed.substr(at, length));
    at += length;
  }
  return items;
}

}  // namespace

struct Job::State {
  JobOptions options;
  std::string launcher = "none";
  bool launched = false;
  int rank = 0;
  int size = 1;
  std::vector<std::string> hosts;
  std::vector<int> memory;  // [size] the first rank that shares memory with rank r
  std::vector<int> shared_host_ranks;
  bool crowded = false;

  MpiGate gate;
  MpiHoldings holdings;
  std::unique_ptr<MpiLink> link;
  std::optional<WaitWatch> watch;  // over exchanges by the link
  std::atomic<bool> finished{false};

  std::string who() const {
    return fmt::format("rank {} on host {}", rank,
                       hosts.empty() ? host_name() : hosts[size_t(rank)]);
  }
  void start_mpi(const Launch& launch);
  void find_shared_memory();
  void transfer(std::span<const Transfer> transfers);
  Error missed_exchange(int peer) const;
  std::string broadcast(const std::string& message, int root);
  std::vector<std::string> all_gather(const std::string& mine);
};

// --- start --------------------------------------------------------------------------------------

void Job::State::start_mpi(const Launch& launch) {
  launcher = launch.launcher;
  rank = launch.rank;
  const Watchdog watchdog(options.start_seconds, who(), "starting MPI");
  int provided = 0;
  check_mpi(MPI_Init_thread(nullptr, nullptr, MPI_THREAD_SERIALIZED, &provided), "MPI_Init_thread");
  launched = true;
  MPI_Comm_set_errhandler(MPI_COMM_WORLD, MPI_ERRORS_RETURN);
  check_mpi(MPI_Comm_rank(MPI_COMM_WORLD, &rank), "MPI_Comm_rank");
  check_mpi(MPI_Comm_size(MPI_COMM_WORLD, &size), "MPI_Comm_size");
  if (launch.size != 0 && launch.size != size) {
    const int mpi_size = size;
    MPI_Finalize();
    finished = true;
    throw_error(ErrorKind::kUsage,
                "the launcher ({}) started {} ranks, but MPI sees {}: it is not a launcher of the "
                "MPI library that convoke was built with; use its own mpirun, or srun --mpi=pmix",
                launch.launcher, launch.size, mpi_size);
  }
  if (provided < MPI_THREAD_SERIALIZED) {
    throw_error(ErrorKind::kUsage, "this MPI library does not support MPI_THREAD_SERIALIZED");
  }
  MPI_Comm own = MPI_COMM_NULL;
  check_mpi(MPI_Comm_dup(MPI_COMM_WORLD, &own), "MPI_Comm_dup");
  holdings.comms.push_back(own);
  find_shared_memory();
  link = std::make_unique<MpiLink>(own, gate, crowded);
  watch.emplace(*link, rank, size, options.deadline_seconds);
  hosts = all_gather(host_name());
}

void Job::State::find_shared_memory() {
  MPI_Comm near = MPI_COMM_NULL;
  check_mpi(MPI_Comm_split_type(MPI_COMM_WORLD, MPI_COMM_TYPE_SHARED, rank, MPI_INFO_NULL, &near),
            "MPI_Comm_split_type");
  holdings.comms.push_back(near);
  int first = rank;
  check_mpi(MPI_Bcast(&first, 1, MPI_INT, 0, near), "MPI_Bcast");
  memory.resize(size_t(size));
  check_mpi(MPI_Allgather(&first, 1, MPI_INT, memory.data(), 1, MPI_INT, MPI_COMM_WORLD),
            "MPI_Allgather");
  for (int r = 0; r < size; ++r) {
    if (memory[size_t(r)] == first) shared_host_ranks.push_back(r);
  }
  crowded = long(shared_host_ranks.size()) > sysconf(_SC_NPROCESSORS_ONLN);
}

std::unique_ptr<Job> Job::start(const JobOptions& options) {
  auto state = std::make_unique<State>();
  state->options = options;
  state->hosts = {host_name()};
  state->memory = {0};
  if (const std::optional<Launch> launch = detect_launch(process_environment())) {
    // A lone task of srun without an MPI plugin needs no MPI, which could not start there either.
    const bool alone =
        launch->size == 1 && (launch->launcher == "srun" || launch->launcher == "pmi");
    if (!alone) {
      state->hosts.clear();
      state->start_mpi(*launch);
    }
  }
  if (!state->launched) state->shared_host_ranks = {0};
  return std::unique_ptr<Job>(new Job(std::move(state)));
}

Job::Job(std::unique_ptr<State> state) : state_(std::move(state)) {}

Job::~Job() {
  if (state_->launched && !state_->finished) kill(EXIT_FAILURE);
}

// --- accessors ----------------------------------------------------------------------------------

int Job::rank() const {
  return state_->rank;
}
int Job::size() const {
  return state_->size;
}
bool Job::launched() const {
  return state_->launched;
}
const std::string& Job::launcher() const {
  return state_->launcher;
}
const std::string& Job::host() const {
  return state_->hosts[size_t(state_->rank)];
}
const std::vector<std::string>& Job::hosts() const {
  return state_->hosts;
}
const std::vector<int>& Job::shared_host_ranks() const {
  return state_->shared_host_ranks;
}
std::string Job::name_of(int rank) const {
  return fmt::format("rank {} on host {}", rank, state_->hosts.at(size_t(rank)));
}

// --- exchanges: stars, small and rare -----------------------------------------------------------

// Whoever waits for the root hears from it whom it waits for itself.
void Job::State::transfer(std::span<const Transfer> transfers) {
  if (transfers.empty()) return;
  std::optional<Error> heard;
  std::optional<WaitWatch::Blame> blame;
  watch->begin(0);
  const int result = link->run(transfers, [&] {
    heard = link->take_abort();
    if (!heard) {
      blame = watch->look(std::chrono::steady_clock::now(), [&] { return link->awaited(); });
    }
    return heard || blame;
  });
  if (result == PeerLink::kDone) return watch->end();
  if (heard) throw *heard;
  const Error error = result == PeerLink::kFailed ? Error(ErrorKind::kPeer, link->failure())
                                                  : missed_exchange(blame->rank);
  link->send_abort(error);
  throw error;
}

// Before the hosts are known, at the start, the rank alone is named.
Error Job::State::missed_exchange(int peer) const {
  const std::string host = size_t(peer) < hosts.size() ? " on host " + hosts[size_t(peer)] : "";
  return {ErrorKind::kTimeout,
          fmt::format("rank {}{} did not come to an exchange of the job within {:.3g} s", peer,
                      host, options.deadline_seconds)};
}

std::string Job::State::broadcast(const std::string& message, int root) {
  uint64_t length = message.size();
  if (rank == root) {
    std::vector<Transfer> transfers;
    for (int r = 0; r < size; ++r) {
      if (r == root) continue;
      transfers.push_back({r, &length, sizeof length, nullptr, 0});
      if (length > 0) transfers.push_back({r, message.data(), length, nullptr, 0});
    }
    transfer(transfers);
    return message;
  }
  const Transfer head{root, nullptr, 0, &length, sizeof length};
  transfer({&head, 1});
  std::string received(length, '\0');
  const Transfer body{root, nullptr, 0, received.data(), length};
  if (length > 0) transfer({&body, 1});
  return received;
}

std::vector<std::string> Job::State::all_gather(const std::string& mine) {
  const uint64_t length = mine.size();
  if (rank != 0) {
    const Transfer parts[] = {{0, &length, sizeof length, nullptr, 0},
                              {0, mine.data(), mine.size(), nullptr, 0}};
    transfer({parts, mine.empty() ? size_t(1) : size_t(2)});
    return unpack(broadcast({}, 0), size_t(size));
  }
  std::vector<uint64_t> lengths(static_cast<size_t>(size));
  std::vector<Transfer> heads, bodies;
  for (int r = 1; r < size; ++r) {
    heads.push_back({r, nullptr, 0, &lengths[size_t(r)], sizeof(uint64_t)});
  }
  transfer(heads);
  std::vector<std::string> items(static_cast<size_t>(size));
  items[0] = mine;
  for (int r = 1; r < size; ++r) {
    std::string& item = items[size_t(r)];
    item.resize(lengths[size_t(r)]);
    if (!item.empty()) bodies.push_back({r, nullptr, 0, item.data(), item.size()});
  }
  transfer(bodies);
  std::string packed;
  for (const std::string& item : items) append(packed, item);
  broadcast(packed, 0);
  return items;
}

std::vector<std::string> Job::all_gather(const std::string& mine) {
  if (!state_->launched) return {mine};
  CONVOKE_CHECK(!state_->finished);
  return state_->all_gather(mine);
}

std::string Job::broadcast(const std::string& message, int root) {
  CONVOKE_CHECK(0 <= root && root < size());
  if (!state_->launched) return message;
  CONVOKE_CHECK(!state_->finished);
  return state_->broadcast(message, root);
}

void Job::barrier() {
  all_gather({});
}

// --- communicators ------------------------------------------------------------------------------

std::unique_ptr<Communicator> Job::make_communicator(const std::vector<int>& world_ranks,
                                                     const CommunicatorOptions& options) {
  State& s = *state_;
  CONVOKE_CHECK(!s.finished);
  const auto self = std::find(world_ranks.begin(), world_ranks.end(), s.rank);
  CONVOKE_CHECK(world_ranks.empty() || self != world_ranks.end());
  const size_t n = world_ranks.size();
  CONVOKE_CHECK(n <= 2 || n == 4 || n == 8);
  if (!s.launched) {
    return world_ranks.empty() ? nullptr : make_single_communicator(options);
  }
  const Watchdog watchdog(s.options.deadline_seconds, s.who(), "making a communicator");
  MPI_Comm comm = MPI_COMM_NULL;
  {
    const std::lock_guard lock(s.gate);
    const int color = world_ranks.empty()
                          ? MPI_UNDEFINED
                          : *std::min_element(world_ranks.begin(), world_ranks.end());
    check_mpi(MPI_Comm_split(MPI_COMM_WORLD, color, int(self - world_ranks.begin()), &comm),
              "MPI_Comm_split");
  }
  if (world_ranks.empty()) return nullptr;
  s.holdings.comms.push_back(comm);
  if (n == 1) return make_single_communicator(options);
  MpiGroup group;
  group.crowded = s.crowded;
  for (size_t r = 0; r < n; ++r) {
    const int world = world_ranks[r];
    group.memory.push_back(s.memory.at(size_t(world)));
    group.names.push_back(
        fmt::format("shard {} (rank {} on host {})", r, world, s.hosts.at(size_t(world))));
  }
  return make_mpi_communicator(comm, s.gate, group, options, s.holdings);
}

// --- the end ------------------------------------------------------------------------------------

void Job::finish() {
  State& s = *state_;
  if (!s.launched || s.finished) return;
  const Watchdog watchdog(s.options.finish_seconds, s.who(), "the orderly end of the job");
  const std::lock_guard lock(s.gate);
  for (MPI_Win& window : s.holdings.windows) MPI_Win_free(&window);
  for (MPI_Comm& comm : s.holdings.comms) MPI_Comm_free(&comm);
  MPI_Finalize();
  s.finished = true;
}

void Job::kill(int exit_code) noexcept {
  const int code = exit_code == 0 ? EXIT_FAILURE : exit_code;
  if (state_->launched && !state_->finished) end_launcher_after(kLauncherSeconds);
  try {
    // If MPI is stuck, or its daemon gone.
    std::thread([code] {
      std::this_thread::sleep_for(std::chrono::seconds(kAbortSeconds));
      _exit(code);
    }).detach();
    State& s = *state_;
    if (s.launched && !s.finished && s.gate.try_lock_for(std::chrono::milliseconds(500))) {
      MPI_Abort(MPI_COMM_WORLD, code);
    }
  } catch (...) {
    // No thread to be had: without it MPI_Abort might hang.
  }
  _exit(code);
}

}  // namespace convoke
