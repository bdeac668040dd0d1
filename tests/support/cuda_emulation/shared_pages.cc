#include "tests/support/cuda_emulation/shared_pages.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kernels/check.h"

namespace convoke::emulation {

int share_pages(std::byte* pages, size_t bytes) {
  const int file = memfd_create("memory of an emulated device", MFD_CLOEXEC);
  CONVOKE_CHECK_GE(file, 0);
  for (size_t done = 0; done < bytes;) {
    const ssize_t written = pwrite(file, pages + done, bytes - done, off_t(done));
    CONVOKE_CHECK_GE(written, 1);
    done += size_t(written);
  }
  CONVOKE_CHECK(mmap(pages, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) ==
                pages);
  return file;
}

std::byte* map_shared_pages(pid_t owner, int file, size_t bytes, size_t page) {
  const int mine = open(fmt::format("/proc/{}/fd/{}", owner, file).c_str(), O_RDWR | O_CLOEXEC);
  if (mine < 0) return nullptr;
  struct stat status = {};
  std::byte* pages = nullptr;
  if (fstat(mine, &status) == 0 && size_t(status.st_size) == bytes) {
    void* const room =
        mmap(nullptr, bytes + page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    CONVOKE_CHECK(room != MAP_FAILED);
    CONVOKE_CHECK(mmap(room, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, mine, 0) ==
                  room);
    pages = static_cast<std::byte*>(room);
  }
  close(mine);
  return pages;
}

}  // namespace convoke::emulation
