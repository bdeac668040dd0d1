// Zip archives and pickles written by hand, to be lied about and damaged by tests.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace convoke {

struct ZipEntry {
  std::string name;
  std::string data;
};

struct ZipOptions {
  bool zip64 = false;  ///< every size and offset in the 64-bit records only
};

/// A zip archive of stored entries.
std::string zip_bytes(const std::vector<ZipEntry>& entries, const ZipOptions& options = {});

/// `size` bytes of a number, little endian.
std::string little_endian(uint64_t number, size_t size);

/// Pieces of a pickle of protocol 2 to 5, without PROTO and STOP.
namespace pickle {

std::string text(std::string_view value);                            ///< BINUNICODE
std::string integer(int64_t value);                                  ///< LONG1 of 8 bytes
std::string global(std::string_view module, std::string_view name);  ///< GLOBAL
std::string tuple(const std::vector<std::string>& parts);
std::string call(const std::string& function, const std::vector<std::string>& args);
std::string dict(const std::vector<std::string>& keys_and_values);
/// ("storage", torch.<type>, key, "cpu", elements) as a persistent id.
std::string storage(std::string_view type, std::string_view key, int64_t elements);
std::string integers(const std::vector<int64_t>& values);  ///< a tuple
std::string tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& size,
                   const std::vector<int64_t>& stride);          ///< _rebuild_tensor_v2
std::string whole(const std::string& pieces, int protocol = 2);  ///< with PROTO and STOP

}  // namespace pickle
}  // namespace convoke
