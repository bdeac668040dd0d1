#include "parallel/launch.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "kernels/check.h"

namespace convoke {
namespace {

struct Case {
  const char* what;
  Environment environment;
  const char* launcher;  ///< null: alone
  int rank;
  int size;
};

const Case kCases[] = {
    {"nothing", {}, nullptr, 0, 0},
    {"mpirun", {{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "3"}}, "mpirun", 2, 3},
    {"mpirun -np 1",
     {{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "1"}},
     "mpirun",
     0,
     1},
    {"mpirun inside a Slurm job: Slurm's numbers are of the step that started the daemon",
     {{"OMPI_COMM_WORLD_RANK", "3"},
      {"OMPI_COMM_WORLD_SIZE", "4"},
      {"PMIX_RANK", "3"},
      {"PMIX_NAMESPACE", "123"},
      {"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "1"},
      {"SLURM_STEP_NUM_TASKS", "2"}},
     "mpirun",
     3,
     4},
    {"srun --mpi=pmix",
     {{"PMIX_RANK", "5"},
      {"PMIX_NAMESPACE", "slurm.pmix.7.0"},
      {"SLURM_STEP_ID", "0"},
      {"SLURM_PROCID", "5"},
      {"SLURM_STEP_NUM_TASKS", "6"}},
     "pmix",
     5,
     6},
    {"prterun: no size in the environment",
     {{"PMIX_RANK", "1"}, {"PMIX_NAMESPACE", "prterun-1"}},
     "pmix",
     1,
     0},
    {"PMIX_RANK without a namespace proves nothing", {{"PMIX_RANK", "1"}}, nullptr, 0, 0},
    {"Hydra", {{"PMI_RANK", "1"}, {"PMI_SIZE", "4"}, {"PMI_FD", "9"}}, "pmi", 1, 4},
    {"Hydra with a descriptor alone", {{"PMI_FD", "9"}}, "pmi", 0, 0},
    {"srun --mpi=pmi2",
     {{"PMI_FD", "9"},
      {"SLURM_STEP_ID", "2"},
      {"SLURM_PROCID", "1"},
      {"SLURM_STEP_NUM_TASKS", "2"}},
     "pmi",
     1,
     2},
    {"srun --mpi=none",
     {{"SLURM_STEP_ID", "2"}, {"SLURM_PROCID", "1"}, {"SLURM_STEP_NUM_TASKS", "2"}},
     "srun",
     1,
     2},
    {"shell of an sbatch script",
     {{"SLURM_JOB_ID", "7"}, {"SLURM_PROCID", "0"}, {"SLURM_NTASKS", "6"}},
     nullptr,
     0,
     0},
    {"shell of salloc", {{"SLURM_JOB_ID", "7"}, {"SLURM_NTASKS", "6"}}, nullptr, 0, 0},
    {"a step without a rank", {{"SLURM_STEP_ID", "2"}}, nullptr, 0, 0},
    {"a step with a name", {{"SLURM_STEP_ID", "batch"}, {"SLURM_PROCID", "0"}}, nullptr, 0, 0},
    {"user settings of Open MPI",
     {{"OMPI_MCA_btl", "tcp,self"}, {"OMPI_ALLOW_RUN_AS_ROOT", "1"}},
     nullptr,
     0,
     0},
    {"empty values count as unset",
     {{"OMPI_COMM_WORLD_RANK", ""}, {"OMPI_COMM_WORLD_SIZE", ""}},
     nullptr,
     0,
     0},
    {"half of mpirun's pair",
     {{"OMPI_COMM_WORLD_RANK", "1"}, {"SLURM_STEP_ID", "0"}, {"SLURM_PROCID", "4"}},
     "srun",
     4,
     0},
};

TEST(DetectLaunch, Table) {
  for (const Case& c : kCases) {
    const std::optional<Launch> launch = detect_launch(c.environment);
    ASSERT_EQ(launch.has_value(), c.launcher != nullptr) << c.what;
    if (!launch) continue;
    EXPECT_EQ(launch->launcher, c.launcher) << c.what;
    EXPECT_EQ(launch->rank, c.rank) << c.what;
    EXPECT_EQ(launch->size, c.size) << c.what;
  }
}

TEST(DetectLaunch, NonsenseIsNamed) {
  const auto message = [](const Environment& environment) -> std::string {
    try {
      detect_launch(environment);
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), ErrorKind::kUsage);
      return error.what();
    }
    return "accepted";
  };
  using testing::HasSubstr;
  EXPECT_THAT(message({{"OMPI_COMM_WORLD_RANK", "x"}, {"OMPI_COMM_WORLD_SIZE", "2"}}),
              HasSubstr("OMPI_COMM_WORLD_RANK='x'"));
  EXPECT_THAT(message({{"OMPI_COMM_WORLD_RANK", "0"}, {"OMPI_COMM_WORLD_SIZE", "0"}}),
              HasSubstr("OMPI_COMM_WORLD_SIZE='0'"));
  EXPECT_THAT(message({{"OMPI_COMM_WORLD_RANK", "2"}, {"OMPI_COMM_WORLD_SIZE", "2"}}),
              HasSubstr("rank 2 of 2"));
  EXPECT_THAT(message({{"PMIX_RANK", "-1"}, {"PMIX_NAMESPACE", "n"}}), HasSubstr("PMIX_RANK"));
  EXPECT_THAT(message({{"PMI_RANK", "99999999999"}}), HasSubstr("PMI_RANK"));
}

TEST(EnvironmentWithoutLauncher, KeepsOnlyWhatDoesNotMakeAChildARank) {
  Environment environment = {{"PATH", "/bin"},
                             {"HOME", "/root"},
                             {"EMPTY", ""},
                             {"CUDA_VISIBLE_DEVICES", "0"},
                             {"MY_OMPI_COMM_WORLD_RANK", "1"},
                             {"OMPI_MCA_ess_base_jobid", "12"},
                             {"OMPI_MCA_btl", "self"},
                             {"PMI_FD", "3"},
                             {"SLURM_JOB_ID", "9"},
                             {"MPI_LOCALRANKID", "0"}};
  for (const Case& c : kCases) environment.insert(c.environment.begin(), c.environment.end());
  EXPECT_THAT(environment_without_launcher(environment),
              testing::UnorderedElementsAre("PATH=/bin", "HOME=/root", "EMPTY=",
                                            "CUDA_VISIBLE_DEVICES=0", "MY_OMPI_COMM_WORLD_RANK=1"));
}

TEST(ProcessEnvironment, HoldsWhatIsSet) {
  setenv("CONVOKE_LAUNCH_TEST", "a=b", 1);
  EXPECT_EQ(process_environment().at("CONVOKE_LAUNCH_TEST"), "a=b");
  unsetenv("CONVOKE_LAUNCH_TEST");
  EXPECT_EQ(process_environment().count("CONVOKE_LAUNCH_TEST"), 0u);
}

}  // namespace
}  // namespace convoke
