// Pages that processes have in common, for what CUDA IPC does between real devices.
#pragma once

#include <sys/types.h>

#include <cstddef>

namespace convoke::emulation {

/// Makes pages of this process, which it can read and write, those of a file that only other
/// processes' mappings keep beside its own. They keep what they hold and can be read and written.
/// Returns the file.
int share_pages(std::byte* pages, size_t bytes);

/// Maps the pages behind file `file` of process `owner`, with a page behind them that is never
/// there, readable and writable. Null if there are none.
std::byte* map_shared_pages(pid_t owner, int file, size_t bytes, size_t page);

}  // namespace convoke::emulation
