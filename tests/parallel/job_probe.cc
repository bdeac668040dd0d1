// A job that steps like a decoder until something goes wrong: what fault tests run under mpirun.
//   job_probe MODE
//     steps      broadcast and all-reduce for ever; an Error is printed and ends the job, code 3
//     kill       the same, but the last rank calls Job::kill(7)
//     vanish     the last rank destroys its Job without finish()
//     no-finish  the last rank does not come to finish()
//     idle       all ranks but 0 wait in a broadcast; prints the processor time that cost
// With --deadline S for the communicator's deadline.
#include <time.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <numeric>
#include <string>
#include <thread>

#include "fake_team.h"
#include "parallel/job.h"

namespace {

using namespace convoke;

std::unique_ptr<Communicator> whole_job(Job& job, double deadline) {
  std::vector<int> ranks(static_cast<size_t>(job.size()));
  std::iota(ranks.begin(), ranks.end(), 0);
  CommunicatorOptions options;
  options.reduce_capacity = 512;
  options.deadline_seconds = deadline;
  return job.make_communicator(ranks, options);
}

void step(Communicator& comm, uint64_t number) {
  std::vector<std::byte> message;
  if (comm.rank() == 0) message.assign(100, std::byte(number));
  comm.broadcast(message, 0);
  std::vector<float> target(512);
  for (const std::exception_ptr& e : test::run_team(1, [&](test::FakeStream& stream) {
         std::fill_n(comm.reduce_buffer(), 512, 1.F);
         comm.all_reduce_add(stream, target.data(), 512);
       })) {
    if (e) std::rethrow_exception(e);
  }
  CONVOKE_CHECK_EQ(target[511], float(comm.size()));
}

[[noreturn]] void run_steps(Job& job, double deadline, bool last_kills) {
  const auto comm = whole_job(job, deadline);
  try {
    for (uint64_t number = 0;; ++number) {
      step(*comm, number);
      std::this_thread::sleep_for(std::chrono::milliseconds(1));
      if (number == 100 && job.rank() == 0) std::puts("ready");
      std::fflush(stdout);
      // From a thread that has nothing to do with MPI, while this one uses it.
      if (number == 200 && last_kills && job.rank() == job.size() - 1) {
        std::thread([&job] { job.kill(7); }).detach();
      }
    }
  } catch (const Error& error) {
    std::fprintf(stderr, "%s: %s\n", job.name_of(job.rank()).c_str(), error.what());
    job.kill(3);
  }
}

double processor_seconds() {
  timespec t{};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return double(t.tv_sec) + double(t.tv_nsec) * 1e-9;
}

void idle(Job& job, double deadline) {
  const auto comm = whole_job(job, deadline);
  job.barrier();
  const double before = processor_seconds();
  std::vector<std::byte> message(1);
  if (job.rank() == 0) std::this_thread::sleep_for(std::chrono::seconds(2));
  comm->broadcast(message, 0);
  const double share = (processor_seconds() - before) / 2;
  const auto all = job.all_gather(fmt::format("{:.3f}", share));
  for (const std::string& rank : all) {
    if (job.rank() == 0) std::printf("processor share while idle: %s\n", rank.c_str());
    if (std::stod(rank) > 0.25) std::exit(4);
  }
}

}  // namespace

int main(int argc, char** argv) {
  const std::string mode = argc > 1 ? argv[1] : "";
  double deadline = 5;
  for (int i = 2; i + 1 < argc; ++i) {
    if (std::string(argv[i]) == "--deadline") deadline = std::atof(argv[i + 1]);
  }
  JobOptions options;
  options.finish_seconds = 2;
  const auto job = Job::start(options);
  const bool last = job->rank() == job->size() - 1;
  if (mode == "steps" || mode == "kill") {
    run_steps(*job, deadline, mode == "kill");
  } else if (mode == "vanish") {
    if (last) return 0;
    job->barrier();
  } else if (mode == "no-finish") {
    if (last) std::this_thread::sleep_for(std::chrono::seconds(60));
  } else if (mode == "idle") {
    idle(*job, deadline);
  } else {
    std::fprintf(stderr, "job_probe: unknown mode '%s'\n", mode.c_str());
    job->kill(2);
  }
  job->finish();
  return 0;
}
