#include "launcher/journal.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "kernels/check.h"

namespace convoke {

namespace {

constexpr auto kSyncInterval = std::chrono::milliseconds(200);

[[noreturn]] void fail(const std::string& name, const char* what, int error) {
  throw_error(ErrorKind::kResource, "{}: {}: {}", name, what, strerror(error));
}

/// A new name in a directory is durable once the directory is.
void sync_directory(const std::filesystem::path& path) {
  const auto parent = path.has_parent_path() ? path.parent_path() : std::filesystem::path(".");
  const int fd = open(parent.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  fsync(fd);
  close(fd);
}

}  // namespace

Journal::Journal(const std::filesystem::path& path, bool resume,
                 const std::function<void(std::string_view, int64_t)>& existing)
    : name_(path.string()), synced_(std::chrono::steady_clock::now()) {
  fd_ = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0666);
  if (fd_ < 0) fail(name_, "cannot open for writing", errno);
  try {
    struct stat info;
    if (fstat(fd_, &info) != 0) fail(name_, "cannot inspect", errno);
    regular_ = S_ISREG(info.st_mode);
    // File systems without locks are used without one.
    if (flock(fd_, LOCK_EX | LOCK_NB) != 0 && errno == EWOULDBLOCK) {
      throw_error(ErrorKind::kResource, "{}: another job is writing to this file", name_);
    }
    if (!regular_) return;
    if (fstat(fd_, &info) != 0) fail(name_, "cannot inspect", errno);
    if (info.st_size > 0 && !resume) {
      throw_error(ErrorKind::kUsage,
                  "--output-file: {} is not empty; add --resume to complete it, or name another",
                  name_);
    }
    recover(existing);
    sync_directory(path);
  } catch (...) {
    close(fd_);
    throw;
  }
}

Journal::~Journal() {
  close(fd_);
}

void Journal::recover(const std::function<void(std::string_view, int64_t)>& existing) {
  std::string pending;
  std::string chunk(256 * 1024, '\0');
  int64_t offset = 0;
  while (true) {
    const ssize_t got = pread(fd_, chunk.data(), chunk.size(), offset);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) fail(name_, "cannot read", errno);
    if (got == 0) break;
    offset += got;
    std::string_view rest(chunk.data(), size_t(got));
    for (size_t end; (end = rest.find('\n')) != std::string_view::npos;) {
      pending += rest.substr(0, end);
      rest.remove_prefix(end + 1);
      ++lines_;
      size_ += int64_t(pending.size()) + 1;
      existing(pending, lines_);
      pending.clear();
    }
    pending += rest;
  }
  torn_bytes_ = offset - size_;
  if (torn_bytes_ > 0 && ftruncate(fd_, size_) != 0) fail(name_, "cannot cut a torn line", errno);
  if (lseek(fd_, size_, SEEK_SET) < 0) fail(name_, "cannot seek", errno);
}

void Journal::append(std::string_view line) {
  buffer_.assign(line);
  buffer_ += '\n';
  dirty_ = true;
  size_t written = 0;
  while (written < buffer_.size()) {
    const ssize_t count = write(fd_, buffer_.data() + written, buffer_.size() - written);
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) {
      const int error = count < 0 ? errno : ENOSPC;
      if (regular_ && written > 0 && ftruncate(fd_, size_) == 0) lseek(fd_, size_, SEEK_SET);
      throw_error(ErrorKind::kResource, "{}: cannot write: {}", name_, strerror(error));
    }
    written += size_t(count);
  }
  size_ += int64_t(buffer_.size());
  ++lines_;
}

void Journal::sync(bool now) {
  const auto time = std::chrono::steady_clock::now();
  if (!dirty_ || (!now && time - synced_ < kSyncInterval)) return;
  if (fdatasync(fd_) != 0 && regular_ && errno != EINVAL && errno != ENOTSUP) {
    fail(name_, "cannot make results durable", errno);
  }
  synced_ = time;
  dirty_ = false;
}

}  // namespace convoke
