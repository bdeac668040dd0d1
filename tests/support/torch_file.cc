#include "tests/support/torch_file.h"

namespace convoke {
namespace {

uint32_t crc32(std::string_view data) {
  uint32_t crc = ~uint32_t{0};
  for (const char c : data) {
    crc ^= static_cast<unsigned char>(c);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (0xedb88320u & (0u - (crc & 1u)));
  }
  return ~crc;
}

}  // namespace

std::string little_endian(uint64_t number, size_t size) {
  std::string bytes;
  for (size_t i = 0; i < size; ++i) bytes += static_cast<char>((number >> (8 * i)) & 255);
  return bytes;
}

// Layouts: APPNOTE.TXT (PKWARE), sections 4.3 and 4.5.3.
std::string zip_bytes(const std::vector<ZipEntry>& entries, const ZipOptions& options) {
  std::string file;
  std::string directory;
  const std::string none = little_endian(0, 2);
  const uint64_t version = options.zip64 ? 45 : 20;
  for (const ZipEntry& entry : entries) {
    const uint64_t size = entry.data.size();
    const std::string sizes64 = little_endian(size, 8) + little_endian(size, 8);
    const std::string offset64 = little_endian(file.size(), 8);
    const std::string shown_size = little_endian(options.zip64 ? 0xffffffff : size, 4);
    const std::string common = little_endian(version, 2) + none + none + none + none + none;
    const std::string crc = little_endian(crc32(entry.data), 4);
    const std::string local_extra =
        options.zip64 ? little_endian(1, 2) + little_endian(16, 2) + sizes64 : "";
    const std::string extra =
        options.zip64 ? little_endian(1, 2) + little_endian(24, 2) + sizes64 + offset64 : "";
    const std::string name_length = little_endian(entry.name.size(), 2);
    directory += std::string("PK\1\2") + little_endian(version, 2) + common.substr(0, 10) + crc +
                 shown_size + shown_size + name_length + little_endian(extra.size(), 2) + none +
                 none + none + little_endian(0, 4) +
                 little_endian(options.zip64 ? 0xffffffff : file.size(), 4) + entry.name + extra;
    file += std::string("PK\3\4") + common.substr(0, 10) + crc + shown_size + shown_size +
            name_length + little_endian(local_extra.size(), 2) + entry.name + local_extra +
            entry.data;
  }
  const uint64_t directory_at = file.size();
  const uint64_t count = entries.size();
  file += directory;
  if (options.zip64) {
    const uint64_t end_at = file.size();
    file += std::string("PK\6\6") + little_endian(44, 8) + little_endian(version, 2) +
            little_endian(version, 2) + little_endian(0, 4) + little_endian(0, 4) +
            little_endian(count, 8) + little_endian(count, 8) + little_endian(directory.size(), 8) +
            little_endian(directory_at, 8);
    file += std::string("PK\6\7") + little_endian(0, 4) + little_endian(end_at, 8) +
            little_endian(1, 4);
  }
  const uint64_t shown_count = options.zip64 ? 0xffff : count;
  return file + "PK\5\6" + none + none + little_endian(shown_count, 2) +
         little_endian(shown_count, 2) +
         little_endian(options.zip64 ? 0xffffffff : directory.size(), 4) +
         little_endian(options.zip64 ? 0xffffffff : directory_at, 4) + none;
}

namespace pickle {

std::string text(std::string_view value) {
  return std::string("X") + little_endian(value.size(), 4) + std::string(value);
}

std::string integer(int64_t value) {
  return std::string("\x8a\x08") + little_endian(static_cast<uint64_t>(value), 8);
}

std::string global(std::string_view module, std::string_view name) {
  return std::string("c") + std::string(module) + "\n" + std::string(name) + "\n";
}

std::string tuple(const std::vector<std::string>& parts) {
  std::string all = "(";
  for (const std::string& part : parts) all += part;
  return all + "t";
}

std::string call(const std::string& function, const std::vector<std::string>& args) {
  return function + tuple(args) + "R";
}

std::string dict(const std::vector<std::string>& keys_and_values) {
  std::string all = "}(";
  for (const std::string& part : keys_and_values) all += part;
  return all + "u";
}

std::string storage(std::string_view type, std::string_view key, int64_t elements) {
  return tuple(
             {text("storage"), global("torch", type), text(key), text("cpu"), integer(elements)}) +
         "Q";
}

std::string integers(const std::vector<int64_t>& values) {
  std::vector<std::string> parts;
  for (const int64_t value : values) parts.push_back(integer(value));
  return tuple(parts);
}

std::string tensor(const std::string& storage, int64_t offset, const std::vector<int64_t>& size,
                   const std::vector<int64_t>& stride) {
  const std::string hooks = call(global("collections", "OrderedDict"), {});
  return call(global("torch._utils", "_rebuild_tensor_v2"),
              {storage, integer(offset), integers(size), integers(stride), "\x89", hooks});
}

std::string whole(const std::string& pieces, int protocol) {
  return std::string("\x80") + little_endian(static_cast<uint64_t>(protocol), 1) + pieces + ".";
}

}  // namespace pickle
}  // namespace convoke
