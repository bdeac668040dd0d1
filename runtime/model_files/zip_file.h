// A zip archive in memory, read through libzip.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace convoke {

/// The entries of an archive. An entry that is stored (not compressed) lies in the archive as it
/// is, and is handed out in place: nothing of it is read or copied. Reading is not thread-safe.
class ZipFile {
 public:
  struct Entry {
    std::string name;
    uint64_t size = 0;                    ///< in bytes, after decompression
    const std::byte* in_place = nullptr;  ///< where it lies in the archive; nullptr: use read()
  };

  /// `bytes` is the whole archive and must outlive this; `name` is for messages. Throws
  /// Error(kModel) if it is no whole zip archive, or an entry is there twice, encrypted, compressed
  /// with anything but deflate, does not lie in the archive, or claims a size that its bytes cannot
  /// have (so that no more memory is ever taken than the archive justifies).
  ZipFile(std::span<const std::byte> bytes, std::string name);
  ~ZipFile();
  ZipFile(const ZipFile&) = delete;
  ZipFile& operator=(const ZipFile&) = delete;

  const std::vector<Entry>& entries() const { return entries_; }
  const Entry* find(std::string_view name) const;  ///< nullptr if absent

  /// The whole entry, decompressed; its checksum is verified. Throws Error(kModel).
  std::unique_ptr<std::byte[]> read(const Entry& entry) const;

 private:
  struct Archive;
  void add_entry(uint64_t index);
  const std::byte* place_of(uint64_t index, const Entry& entry) const;

  std::span<const std::byte> bytes_;
  std::string name_;
  std::unique_ptr<Archive> archive_;
  std::vector<Entry> entries_;  ///< in the order of libzip's indices
  std::unordered_map<std::string_view, size_t> by_name_;
};

}  // namespace convoke
