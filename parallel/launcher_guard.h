// Makes sure that the launcher's own processes end when the job has been given up.
#pragma once

namespace convoke {

/// Leaves a small process behind that watches this one's parent, if that is Open MPI's mpirun or
/// its daemon, and ends it should it still be there after `seconds`. Once mpirun has something to
/// tell a daemon whose host has fallen silent, TCP retries for a quarter of an hour and keep-alive
/// probes do not apply: it would sit there with all ranks gone. The watcher ends with the launcher
/// or some moments after the time, holds no files, and never touches anything else (slurmstepd ends
/// by itself).
void end_launcher_after(double seconds) noexcept;

}  // namespace convoke
