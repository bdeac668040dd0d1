#include "launcher/line_reader.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "kernels/check.h"

namespace convoke {

namespace {
constexpr size_t kReadSize = 256 * 1024;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
}  // namespace

bool is_blank(std::string_view line) {
  return line.find_first_not_of(" \t\r\n\v\f") == std::string_view::npos;
}

LineReader::LineReader(const std::filesystem::path& path) : name_(path.string()) {
  if (name_ == "-") {
    name_ = "standard input";
    fd_ = STDIN_FILENO;
    return;
  }
  fd_ = open(path.c_str(), O_RDONLY | O_CLOEXEC);
  if (fd_ < 0) throw_error(ErrorKind::kResource, "{}: cannot open: {}", name_, strerror(errno));
  owned_ = true;
}

LineReader::~LineReader() {
  if (owned_) close(fd_);
}

LineReader::Status LineReader::fill(int wait_ms) {
  pollfd ready{fd_, POLLIN, 0};
  const int count = poll(&ready, 1, wait_ms);
  if (count == 0 || (count < 0 && errno == EINTR)) return Status::kWait;
  if (begin_ > 0) {
    buffer_.erase(0, begin_);
    searched_ -= begin_;
    begin_ = 0;
  }
  const size_t old = buffer_.size();
  buffer_.resize(old + std::max(kReadSize, old));
  const ssize_t got = read(fd_, buffer_.data() + old, buffer_.size() - old);
  const int error = errno;
  buffer_.resize(old + size_t(std::max<ssize_t>(got, 0)));
  if (got < 0 && (error == EINTR || error == EAGAIN)) return Status::kWait;
  if (got < 0) throw_error(ErrorKind::kResource, "{}: cannot read: {}", name_, strerror(error));
  return got == 0 ? Status::kEnd : Status::kLine;
}

LineReader::Status LineReader::next(std::string_view& line, int wait_ms) {
  size_t end;
  while ((end = ended_ ? std::string::npos : buffer_.find('\n', searched_)) == std::string::npos) {
    searched_ = buffer_.size();
    if (ended_) return Status::kEnd;
    const Status status = fill(wait_ms);
    if (status == Status::kWait) return status;
    if (status == Status::kEnd) {
      ended_ = true;
      if (begin_ == buffer_.size()) return Status::kEnd;
      end = buffer_.size();
      break;
    }
  }
  line = std::string_view(buffer_).substr(begin_, end - begin_);
  begin_ = searched_ = std::min(end + 1, buffer_.size());
  if (line_number_ == 0 && line.starts_with(kByteOrderMark)) line.remove_prefix(3);
  if (line.ends_with('\r')) line.remove_suffix(1);
  ++line_number_;
  return Status::kLine;
}

int64_t count_lines(const std::filesystem::path& path) {
  struct stat info;
  if (stat(path.c_str(), &info) != 0 || !S_ISREG(info.st_mode)) return -1;
  LineReader reader(path);
  int64_t count = 0;
  for (std::string_view line; reader.next(line) == LineReader::Status::kLine;) {
    count += is_blank(line) ? 0 : 1;
  }
  return count;
}

}  // namespace convoke
