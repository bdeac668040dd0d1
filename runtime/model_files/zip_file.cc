#include "runtime/model_files/zip_file.h"

#include <zip.h>

#include <algorithm>
#include <cstring>

#include "kernels/check.h"
#include "runtime/model_files/shown_text.h"

namespace convoke {
namespace {

/// The layout of a local header: APPNOTE.TXT (PKWARE), section 4.3.7.
constexpr std::string_view kLocalSignature = "PK\3\4";
constexpr size_t kLocalHeaderBytes = 30;
constexpr size_t kMethodAt = 8;
constexpr size_t kNameLengthAt = 26;
constexpr size_t kExtraLengthAt = 28;

/// Deflate cannot do better than 1032 : 1 (https://zlib.net/zlib_tech.html).
constexpr uint64_t kMostExpansion = 1032;

/// The archive as libzip reads it. libzip does not tell where an entry lies in the archive, but it
/// has to go there: the places it went to are kept.
struct Reader {
  std::span<const std::byte> bytes;
  uint64_t at = 0;
  std::vector<uint64_t> visited;
  zip_error_t error{};
};

zip_int64_t seek(Reader& reader, void* data, zip_uint64_t length) {
  const auto size = static_cast<zip_uint64_t>(reader.bytes.size());
  const zip_int64_t target =
      zip_source_seek_compute_offset(reader.at, size, data, length, &reader.error);
  if (target < 0) return -1;
  reader.at = static_cast<uint64_t>(target);
  reader.visited.push_back(reader.at);
  return 0;
}

zip_int64_t copy_out(Reader& reader, void* data, zip_uint64_t length) {
  const uint64_t left = reader.bytes.size() - std::min<uint64_t>(reader.at, reader.bytes.size());
  const uint64_t count = std::min<uint64_t>(length, left);
  if (count != 0) std::memcpy(data, reader.bytes.data() + reader.at, count);
  reader.at += count;
  return static_cast<zip_int64_t>(count);
}

zip_int64_t describe(const Reader& reader, void* data, zip_uint64_t length) {
  if (length < sizeof(zip_stat_t)) return -1;
  zip_stat_t status;
  zip_stat_init(&status);
  status.size = reader.bytes.size();
  status.valid = ZIP_STAT_SIZE;
  std::memcpy(data, &status, sizeof(status));
  return sizeof(status);
}

/// libzip's view of a Reader.
zip_int64_t on_command(void* user, void* data, zip_uint64_t length, zip_source_cmd_t command) {
  Reader& reader = *static_cast<Reader*>(user);
  switch (command) {
    case ZIP_SOURCE_OPEN:
      reader.at = 0;
      return 0;
    case ZIP_SOURCE_READ:
      return copy_out(reader, data, length);
    case ZIP_SOURCE_CLOSE:
    case ZIP_SOURCE_FREE:
      return 0;
    case ZIP_SOURCE_SEEK:
      return seek(reader, data, length);
    case ZIP_SOURCE_TELL:
      return static_cast<zip_int64_t>(reader.at);
    case ZIP_SOURCE_STAT:
      return describe(reader, data, length);
    case ZIP_SOURCE_ERROR:
      return zip_error_to_data(&reader.error, data, length);
    case ZIP_SOURCE_SUPPORTS:
      return zip_source_make_command_bitmap(ZIP_SOURCE_OPEN, ZIP_SOURCE_READ, ZIP_SOURCE_CLOSE,
                                            ZIP_SOURCE_STAT, ZIP_SOURCE_ERROR, ZIP_SOURCE_FREE,
                                            ZIP_SOURCE_SEEK, ZIP_SOURCE_TELL, -1);
    default:
      zip_error_set(&reader.error, ZIP_ER_OPNOTSUPP, 0);
      return -1;
  }
}

struct CloseEntry {
  void operator()(zip_file_t* file) const { zip_fclose(file); }
};
using OpenEntry = std::unique_ptr<zip_file_t, CloseEntry>;

uint64_t number_at(const std::byte* data, size_t bytes) {
  uint64_t number = 0;
  for (size_t i = 0; i < bytes; ++i)
    number |= uint64_t{std::to_integer<uint8_t>(data[i])} << (8 * i);
  return number;
}

}  // namespace

struct ZipFile::Archive {
  Reader reader;
  zip_t* zip = nullptr;

  explicit Archive(std::span<const std::byte> bytes) {
    reader.bytes = bytes;
    zip_error_init(&reader.error);
  }
  ~Archive() {
    if (zip != nullptr) zip_discard(zip);
    zip_error_fini(&reader.error);
  }
  Archive(const Archive&) = delete;
  Archive& operator=(const Archive&) = delete;

  void open(const std::string& name) {
    zip_error_t error;
    zip_error_init(&error);
    zip_source_t* source = zip_source_function_create(on_command, &reader, &error);
    if (source != nullptr) {
      zip = zip_open_from_source(source, ZIP_RDONLY, &error);
      if (zip == nullptr) zip_source_free(source);
    }
    const std::string why = zip_error_strerror(&error);
    zip_error_fini(&error);
    if (zip == nullptr) {
      throw_error(ErrorKind::kModel, "{}: not a whole zip archive (is it cut short?): {}", name,
                  why);
    }
  }
};

ZipFile::ZipFile(std::span<const std::byte> bytes, std::string name)
    : bytes_(bytes), name_(std::move(name)), archive_(std::make_unique<Archive>(bytes)) {
  archive_->open(name_);
  const zip_int64_t count = zip_get_num_entries(archive_->zip, 0);
  CONVOKE_CHECK_GE(count, 0);
  entries_.reserve(static_cast<size_t>(count));  // the names below point into it
  for (zip_int64_t i = 0; i < count; ++i) add_entry(static_cast<uint64_t>(i));
}

ZipFile::~ZipFile() = default;

void ZipFile::add_entry(uint64_t index) {
  zip_stat_t status;
  zip_stat_init(&status);
  constexpr zip_uint64_t kNeeded =
      ZIP_STAT_NAME | ZIP_STAT_SIZE | ZIP_STAT_COMP_SIZE | ZIP_STAT_COMP_METHOD;
  if (zip_stat_index(archive_->zip, index, ZIP_FL_ENC_RAW, &status) != 0 ||
      (status.valid & kNeeded) != kNeeded) {
    throw_error(ErrorKind::kModel, "{}: zip entry {}: {}", name_, index,
                zip_strerror(archive_->zip));
  }
  const auto refuse = [&](const std::string& why) {
    throw_error(ErrorKind::kModel, "{}: zip entry {}: {}", name_, shown_text(status.name), why);
  };
  if ((status.valid & ZIP_STAT_ENCRYPTION_METHOD) != 0 && status.encryption_method != ZIP_EM_NONE) {
    refuse("is encrypted");
  }
  if (status.comp_size > bytes_.size()) {
    refuse(fmt::format("claims {} bytes of a file of {}", status.comp_size, bytes_.size()));
  }
  const bool stored = status.comp_method == ZIP_CM_STORE;
  if (!stored && status.comp_method != ZIP_CM_DEFLATE) {
    refuse(fmt::format("compression method {} is not supported", status.comp_method));
  }
  if (stored ? status.size != status.comp_size
             : status.size > (status.comp_size + 1) * kMostExpansion) {
    refuse(fmt::format("claims {} bytes, which its {} bytes in the file cannot hold", status.size,
                       status.comp_size));
  }
  entries_.push_back({status.name, status.size, nullptr});
  if (!by_name_.try_emplace(entries_.back().name, index).second) refuse("is there twice");
  if (stored) entries_.back().in_place = place_of(index, entries_.back());
}

/// Where libzip goes to open the entry, if there is a local header of its name there.
const std::byte* ZipFile::place_of(uint64_t index, const Entry& entry) const {
  Reader& reader = archive_->reader;
  reader.visited.clear();
  const OpenEntry open(zip_fopen_index(archive_->zip, index, 0));
  if (!open) {
    throw_error(ErrorKind::kModel, "{}: zip entry {}: {}", name_, shown_text(entry.name),
                zip_strerror(archive_->zip));
  }
  for (const uint64_t at : reader.visited) {
    if (at > bytes_.size() || bytes_.size() - at < kLocalHeaderBytes) continue;
    const std::byte* header = bytes_.data() + at;
    if (std::memcmp(header, kLocalSignature.data(), kLocalSignature.size()) != 0) continue;
    const uint64_t left = bytes_.size() - at - kLocalHeaderBytes;
    const uint64_t name_length = number_at(header + kNameLengthAt, 2);
    const uint64_t extra_length = number_at(header + kExtraLengthAt, 2);
    const bool same = number_at(header + kMethodAt, 2) == ZIP_CM_STORE &&
                      name_length == entry.name.size() && name_length <= left &&
                      std::memcmp(header + kLocalHeaderBytes, entry.name.data(), name_length) == 0;
    if (!same) continue;
    if (left < name_length + extra_length || left - name_length - extra_length < entry.size) {
      throw_error(ErrorKind::kModel, "{}: zip entry {}: its {} bytes reach beyond the file", name_,
                  shown_text(entry.name), entry.size);
    }
    return header + kLocalHeaderBytes + name_length + extra_length;
  }
  return nullptr;
}

const ZipFile::Entry* ZipFile::find(std::string_view name) const {
  const auto found = by_name_.find(name);
  return found == by_name_.end() ? nullptr : &entries_[found->second];
}

std::unique_ptr<std::byte[]> ZipFile::read(const Entry& entry) const {
  const auto index = static_cast<zip_uint64_t>(&entry - entries_.data());
  CONVOKE_CHECK_LT(index, entries_.size());
  const auto refuse = [&](const std::string& why) {
    throw_error(ErrorKind::kModel, "{}: zip entry {}: {}", name_, shown_text(entry.name), why);
  };
  const OpenEntry open(zip_fopen_index(archive_->zip, index, 0));
  if (!open) refuse(zip_strerror(archive_->zip));
  auto bytes = std::make_unique<std::byte[]>(entry.size);
  uint64_t done = 0;
  for (;;) {
    // At the end one byte more is asked for: only then is the checksum compared.
    std::byte beyond{};
    const bool at_end = done == entry.size;
    const zip_int64_t got = at_end ? zip_fread(open.get(), &beyond, 1)
                                   : zip_fread(open.get(), bytes.get() + done, entry.size - done);
    if (got < 0) refuse(zip_file_strerror(open.get()));
    if (got == 0) break;
    if (at_end) refuse(fmt::format("has more than the {} bytes it claims", entry.size));
    done += static_cast<uint64_t>(got);
  }
  if (done != entry.size) refuse(fmt::format("has {} of the {} bytes it claims", done, entry.size));
  return bytes;
}

}  // namespace convoke
