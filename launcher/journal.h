// The output of a batch job: a file of whole lines that survives the death of the job.
//
// A line is written with one write(), so a killed process leaves at most one torn line, at the end;
// it is cut off when the file is opened to go on. fdatasync() runs at most every 200 ms and at the
// end: a crash of the machine loses the results of the last moment, which are then made again.
// An advisory lock keeps a second job off the file. Not thread-safe.
#pragma once

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <string_view>

namespace convoke {

class Journal {
 public:
  /// Opens or creates the file. With `resume`, gives every whole line of it to `existing` (line
  /// number from 1) and cuts off what follows the last one. Without it, a file that is not empty
  /// is refused. Throws Error(kUsage) then, Error(kResource) for everything else.
  Journal(const std::filesystem::path& path, bool resume,
          const std::function<void(std::string_view line, int64_t number)>& existing);
  ~Journal();
  Journal(const Journal&) = delete;
  Journal& operator=(const Journal&) = delete;

  /// Appends `line` (without LF inside) and LF. On failure nothing of it remains in the file, and
  /// Error(kResource) says so.
  void append(std::string_view line);
  /// Makes what was appended durable if 200 ms have passed since that was last done, or `now`.
  void sync(bool now = false);

  int64_t torn_bytes() const { return torn_bytes_; }  ///< cut off when opened
  int64_t lines() const { return lines_; }            ///< in the file
  int fd() const { return fd_; }

 private:
  void recover(const std::function<void(std::string_view, int64_t)>& existing);

  std::string name_;
  int fd_ = -1;
  bool regular_ = true;
  int64_t size_ = 0;  ///< of the whole lines
  int64_t lines_ = 0;
  int64_t torn_bytes_ = 0;
  bool dirty_ = false;
  std::string buffer_;
  std::chrono::steady_clock::time_point synced_;
};

}  // namespace convoke
