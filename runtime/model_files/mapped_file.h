#pragma once

#include <cstddef>
#include <filesystem>
#include <span>
#include <string>

namespace convoke {

/// A whole file mapped read-only, and kept open. Nothing is read until its bytes are looked at. The
/// file must not shrink while it is mapped (the system then ends the process at the lost page).
class MappedFile {
 public:
  /// Throws Error(kModel) if there is no such regular file or it is empty, Error(kResource) if it
  /// cannot be read or mapped.
  explicit MappedFile(const std::filesystem::path& path);
  ~MappedFile();
  MappedFile(MappedFile&& other) noexcept;
  MappedFile& operator=(MappedFile&&) = delete;
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  std::span<const std::byte> bytes() const { return bytes_; }

  /// Reads bytes [begin, begin + to.size()), which must lie inside, from the file. Thread-safe.
  /// Returns what went wrong, or nothing.
  std::string read(size_t begin, std::span<std::byte> to) const;

  /// What the system is told about the pages of [begin, begin + size), which must lie inside.
  enum class Advice { kWillNeed, kDone, kSparse };
  void advise(const std::byte* begin, size_t size, Advice advice) const;

 private:
  int fd_ = -1;
  std::span<const std::byte> bytes_;
};

}  // namespace convoke
