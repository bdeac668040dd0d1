// Which launcher started this process? Pure functions of the environment.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <vector>

namespace convoke {

using Environment = std::map<std::string, std::string>;

Environment process_environment();

struct Launch {
  std::string launcher;  ///< "mpirun", "pmix", "pmi", "srun"
  int rank = 0;
  int size = 0;  ///< 0: the launcher's variables do not say; MPI will
};

/// nullopt: started alone. In order:
///  1. OMPI_COMM_WORLD_RANK and _SIZE: mpirun, also inside a Slurm job;
///  2. PMIX_RANK with PMIX_NAMESPACE: srun --mpi=pmix (size in SLURM_STEP_NUM_TASKS), prterun;
///  3. PMI_RANK or PMI_FD: srun --mpi=pmi2, Hydra (size in PMI_SIZE or SLURM_STEP_NUM_TASKS);
///  4. SLURM_STEP_ID with SLURM_PROCID: srun without an MPI plugin.
/// Not evidence, because a batch or login shell has them too: SLURM_PROCID or SLURM_NTASKS without
/// a step; OMPI_MCA_* that people set. A step of the batch script itself or of an interactive
/// shell (SLURM_STEP_ID unset or not a number, as in "batch") is being started alone.
/// Throws Error(kUsage) naming a variable that should be a number and is not, or that is out of
/// range.
std::optional<Launch> detect_launch(const Environment& environment);

/// "NAME=value" for every variable that does not tell a child that it is a rank: what a drafter
/// process is started with. All of OMPI_*, PMIX_*, PMI_*, SLURM_*, ORTE_*, OPAL_*, PRTE_*, HYDRA_*,
/// MPIEXEC_* and MPI_LOCAL* go, OMPI_MCA_* too: mpirun itself passes contact data in those, a child
/// never talks MPI, so nothing that a user set there would reach anything.
std::vector<std::string> environment_without_launcher(const Environment& environment);

}  // namespace convoke
