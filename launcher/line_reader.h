// Lines of a file or pipe, one at a time, however long.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>

namespace convoke {

/// Memory: the longest line, twice. A line ends with LF or CRLF, the last one also with the end of
/// the input; a byte order mark at the very beginning is skipped. Not thread-safe.
class LineReader {
 public:
  enum class Status { kLine, kEnd, kWait };

  /// Opens `path`; "-" is standard input. Throws Error(kResource).
  explicit LineReader(const std::filesystem::path& path);
  ~LineReader();
  LineReader(const LineReader&) = delete;
  LineReader& operator=(const LineReader&) = delete;

  /// The next line, without its end, until the following call. kWait: a pipe gave nothing within
  /// `wait_ms`, or a signal came. Throws Error(kResource) if reading fails.
  Status next(std::string_view& line, int wait_ms = -1);

  const std::string& name() const { return name_; }     ///< for messages
  int64_t line_number() const { return line_number_; }  ///< of the line last given, from 1
  int fd() const { return fd_; }

 private:
  Status fill(int wait_ms);

  std::string name_;
  int fd_ = -1;
  bool owned_ = false;
  bool ended_ = false;
  int64_t line_number_ = 0;
  std::string buffer_;
  size_t begin_ = 0;     ///< of the unread part of buffer_
  size_t searched_ = 0;  ///< no LF in buffer_ before this
};

/// Lines of a regular file that are not blank; -1 if it is not a regular file or not readable.
int64_t count_lines(const std::filesystem::path& path);

bool is_blank(std::string_view line);

}  // namespace convoke
