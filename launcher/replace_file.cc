#include "launcher/replace_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <utility>

#include "kernels/check.h"

namespace convoke {

namespace {

[[noreturn]] void fail(const std::filesystem::path& path, int error) {
  throw_error(ErrorKind::kResource, "{}: cannot write: {}", path.string(), std::strerror(error));
}

/// A file beside `path` that goes away unless it takes its name.
class TemporaryFile {
 public:
  explicit TemporaryFile(const std::filesystem::path& path) : path_(path) {
    std::error_code ignored;
    if (path.filename().empty() || std::filesystem::is_directory(path, ignored)) {
      fail(path, EISDIR);
    }
    name_ = path.string() + ".XXXXXX";
    fd_ = mkostemp(name_.data(), O_CLOEXEC);
    if (fd_ < 0) fail(path, errno);
  }
  ~TemporaryFile() {
    if (fd_ >= 0) close(fd_);
    if (!name_.empty()) unlink(name_.c_str());
  }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;

  void write(std::string_view content) {
    while (!content.empty()) {
      const ssize_t count = ::write(fd_, content.data(), content.size());
      if (count < 0 && errno == EINTR) continue;
      if (count < 0) fail(path_, errno);
      content.remove_prefix(size_t(count));
    }
  }

  void take_name() {
    const mode_t mask = umask(0);  // there is no other way to read it
    umask(mask);
    if (fchmod(fd_, 0666 & ~mask) != 0 || fsync(fd_) != 0) fail(path_, errno);
    if (close(std::exchange(fd_, -1)) != 0) fail(path_, errno);
    if (rename(name_.c_str(), path_.c_str()) != 0) fail(path_, errno);
    name_.clear();
  }

 private:
  const std::filesystem::path path_;
  std::string name_;
  int fd_ = -1;
};

}  // namespace

void replace_file(const std::filesystem::path& path, std::string_view content) {
  replace_file(path, std::span(&content, 1));
}

void replace_file(const std::filesystem::path& path, std::span<const std::string_view> pieces) {
  TemporaryFile file(path);
  for (const std::string_view piece : pieces) file.write(piece);
  file.take_name();
}

void check_replaceable(const std::filesystem::path& path) {
  const TemporaryFile file(path);
}

}  // namespace convoke
