#include "runtime/model_files/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "kernels/check.h"

namespace convoke {
namespace {

std::span<const std::byte> map(int fd, const std::filesystem::path& path) {
  struct stat status {};
  if (fstat(fd, &status) != 0 || !S_ISREG(status.st_mode)) {
    throw_error(ErrorKind::kModel, "{}: not a regular file", path.string());
  }
  if (status.st_size == 0) throw_error(ErrorKind::kModel, "{}: is empty", path.string());
  const auto size = static_cast<size_t>(status.st_size);
  void* memory = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd, 0);
  if (memory == MAP_FAILED) {
    throw_error(ErrorKind::kResource, "{}: cannot map {} bytes: {}", path.string(), size,
                std::strerror(errno));
  }
  return {static_cast<const std::byte*>(memory), size};
}

}  // namespace

MappedFile::MappedFile(const std::filesystem::path& path) {
  // Non-blocking: opening a pipe that nobody writes to must not hang.
  const int fd = open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    throw_error(absent ? ErrorKind::kModel : ErrorKind::kResource, "{}: cannot open: {}",
                path.string(), std::strerror(errno));
  }
  try {
    bytes_ = map(fd, path);
  } catch (...) {
    close(fd);
    throw;
  }
  fd_ = fd;
}

MappedFile::MappedFile(MappedFile&& other) noexcept
    : fd_(std::exchange(other.fd_, -1)), bytes_(std::exchange(other.bytes_, {})) {}

std::string MappedFile::read(size_t begin, std::span<std::byte> to) const {
  CONVOKE_CHECK(begin + to.size() <= bytes_.size());
  while (!to.empty()) {
    const ssize_t got = pread(fd_, to.data(), to.size(), static_cast<off_t>(begin));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return fmt::format("cannot read at byte {}: {}", begin, std::strerror(errno));
    if (got == 0) return fmt::format("ends at byte {}: it has been cut short since", begin);
    begin += static_cast<size_t>(got);
    to = to.subspan(static_cast<size_t>(got));
  }
  return "";
}

MappedFile::~MappedFile() {
  if (fd_ >= 0) close(fd_);
  if (!bytes_.empty()) munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

void MappedFile::advise(const std::byte* begin, size_t size, Advice advice) const {
  CONVOKE_CHECK(begin >= bytes_.data() && begin + size <= bytes_.data() + bytes_.size());
  if (size == 0) return;
  const auto page = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  const auto address = reinterpret_cast<uintptr_t>(begin);
  uintptr_t first = address / page * page;
  uintptr_t last = (address + size + page - 1) / page * page;
  if (advice == Advice::kDone) {  // pages shared with a neighbour stay
    first = (address + page - 1) / page * page;
    last = (address + size) / page * page;
    if (first >= last) return;
  }
  int code = MADV_WILLNEED;
  if (advice == Advice::kDone) code = MADV_DONTNEED;
  if (advice == Advice::kSparse) code = MADV_RANDOM;
  // Only a hint: where the system does not take it, loading is slower and no less right.
  (void)madvise(reinterpret_cast<void*>(first), last - first, code);
}

}  // namespace convoke
