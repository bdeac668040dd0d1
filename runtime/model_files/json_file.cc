#include "runtime/model_files/json_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <unordered_set>

namespace convoke {
namespace {

using nlohmann::json;

constexpr size_t kShownBytes = 60;
constexpr size_t kProblemsTold = 8;
constexpr int kMaxDepth = 64;

/// Cuts at a character boundary, so that messages stay valid UTF-8.
std::string cut(std::string text, size_t limit) {
  if (text.size() <= limit) return text;
  while (limit > 0 && (static_cast<unsigned char>(text[limit]) & 0xc0) == 0x80) --limit;
  return text.substr(0, limit) + "...";
}

/// Refuses a key that its object already has (one set of keys per open object), and nesting so deep
/// that code which walks the value recursively would run out of stack.
class ParseGuard {
 public:
  explicit ParseGuard(const std::string& file) : file_(file) {}

  bool operator()(int depth, json::parse_event_t event, json& value) {
    if (depth > kMaxDepth) {
      throw_error(ErrorKind::kModel, "{}: lists or objects lie more than {} deep", file_,
                  kMaxDepth);
    }
    if (event == json::parse_event_t::object_start) open_.emplace_back();
    if (event == json::parse_event_t::object_end) open_.pop_back();
    if (event == json::parse_event_t::key) {
      const auto& key = value.get_ref<const std::string&>();
      if (!open_.back().insert(key).second) {
        throw_error(ErrorKind::kModel, "{}: key '{}' is there twice", file_, cut(key, kShownBytes));
      }
    }
    return true;
  }

 private:
  const std::string& file_;
  std::vector<std::unordered_set<std::string>> open_;
};

class FileDescriptor {
 public:
  explicit FileDescriptor(int fd) : fd_(fd) {}
  ~FileDescriptor() {
    if (fd_ >= 0) close(fd_);
  }
  FileDescriptor(const FileDescriptor&) = delete;
  FileDescriptor& operator=(const FileDescriptor&) = delete;
  int get() const { return fd_; }

 private:
  int fd_;
};

}  // namespace

std::string read_text_file(const std::filesystem::path& path, size_t limit) {
  // Non-blocking: opening a pipe that nobody writes to must not hang.
  const FileDescriptor file(open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (file.get() < 0) {
    const bool absent = errno == ENOENT || errno == ENOTDIR;
    throw_error(absent ? ErrorKind::kModel : ErrorKind::kResource, "{}: cannot open: {}",
                path.string(), std::strerror(errno));
  }
  struct stat status {};
  if (fstat(file.get(), &status) != 0 || !S_ISREG(status.st_mode)) {
    throw_error(ErrorKind::kModel, "{}: not a regular file", path.string());
  }
  if (static_cast<uint64_t>(status.st_size) > limit) {
    throw_error(ErrorKind::kModel, "{}: has {} bytes; at most {} are expected of this file",
                path.string(), status.st_size, limit);
  }
  std::string text(static_cast<size_t>(status.st_size), '\0');
  size_t done = 0;
  while (done < text.size()) {
    const ssize_t got = read(file.get(), text.data() + done, text.size() - done);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) {
      throw_error(ErrorKind::kResource, "{}: cannot read: {}", path.string(), std::strerror(errno));
    }
    if (got == 0) break;  // cut short while we read: the parser will say where it ends
    done += static_cast<size_t>(got);
  }
  text.resize(done);
  return text;
}

json parse_json(std::string_view text, const std::string& file) {
  try {
    return json::parse(text.begin(), text.end(), ParseGuard(file));
  } catch (const json::exception& error) {
    throw_error(ErrorKind::kModel, "{}: not valid JSON: {}", file, cut(error.what(), 240));
  }
}

std::string shown(const json& value) {
  return cut(value.dump(), kShownBytes);
}

void throw_problems(const std::vector<std::string>& problems) {
  if (problems.empty()) return;
  if (problems.size() == 1) throw Error(ErrorKind::kModel, problems.front());
  std::string all = fmt::format("{} problems:", problems.size());
  const size_t told = std::min(problems.size(), kProblemsTold);
  for (size_t i = 0; i < told; ++i) all += "\n  " + problems[i];
  if (told < problems.size()) all += fmt::format("\n  and {} more", problems.size() - told);
  throw Error(ErrorKind::kModel, all);
}

JsonObject::JsonObject(const json& object, std::string file, std::vector<std::string>& problems,
                       std::string prefix)
    : object_(object), file_(std::move(file)), problems_(problems), prefix_(std::move(prefix)) {
  CONVOKE_CHECK(object.is_object());
}

const json* JsonObject::find(const char* key) const {
  const auto found = object_.find(key);
  return found == object_.end() || found->is_null() ? nullptr : &*found;
}

bool JsonObject::has(const char* key) const {
  return find(key) != nullptr;
}

bool JsonObject::is_null(const char* key) const {
  const auto found = object_.find(key);
  return found != object_.end() && found->is_null();
}

std::optional<int64_t> JsonObject::checked_integer(const char* key, const json& value, int64_t min,
                                                   int64_t max) {
  const bool too_large =
      value.is_number_unsigned() && value.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX);
  if (value.is_number_integer() && !too_large) {
    const auto number = value.get<int64_t>();
    if (min <= number && number <= max) return number;
  }
  problem(key, "must be an integer from {} to {}, is {}", min, max, shown(value));
  return std::nullopt;
}

int64_t JsonObject::integer(const char* key, std::optional<int64_t> fallback, int64_t min,
                            int64_t max) {
  const json* value = find(key);
  if (value != nullptr) return checked_integer(key, *value, min, max).value_or(min);
  if (!fallback) problem(key, "is missing");
  return fallback.value_or(min);
}

double JsonObject::number(const char* key, std::optional<double> fallback, double min, double max) {
  const json* value = find(key);
  if (value == nullptr) {
    if (!fallback) problem(key, "is missing");
    return fallback.value_or(min);
  }
  if (value->is_number()) {
    const auto number = value->get<double>();
    if (min <= number && number <= max) return number;
  }
  problem(key, "must be a number from {} to {}, is {}", min, max, shown(*value));
  return min;
}

bool JsonObject::boolean(const char* key, bool fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_boolean()) problem(key, "must be true or false, is {}", shown(*value));
  return value->is_boolean() ? value->get<bool>() : fallback;
}

std::string JsonObject::text(const char* key, const std::string& fallback) {
  const json* value = find(key);
  if (value == nullptr) return fallback;
  if (!value->is_string()) problem(key, "must be a string, is {}", shown(*value));
  return value->is_string() ? value->get<std::string>() : fallback;
}

std::vector<int64_t> JsonObject::integers(const char* key, int64_t min, int64_t max) {
  const json* value = find(key);
  if (value == nullptr) return {};
  const json list = value->is_array() ? *value : json::array({*value});
  std::vector<int64_t> numbers;
  for (const json& entry : list) {
    if (const auto number = checked_integer(key, entry, min, max)) numbers.push_back(*number);
  }
  return numbers;
}

std::vector<std::string> JsonObject::texts(const char* key) {
  const json* value = find(key);
  if (value == nullptr) return {};
  std::vector<std::string> list;
  bool good = value->is_array();
  if (good) {
    for (const json& entry : *value) {
      if (entry.is_string()) list.push_back(entry.get<std::string>());
      good = good && entry.is_string();
    }
  }
  if (!good) problem(key, "must be a list of strings, is {}", shown(*value));
  return list;
}

JsonObject JsonObject::object(const char* key) {
  static const json kNone = json::object();
  const json* value = find(key);
  const bool good = value == nullptr || value->is_object();
  if (!good) problem(key, "must be an object, is {}", shown(*value));
  return {value != nullptr && good ? *value : kNone, file_, problems_, prefix_ + key + "."};
}

}  // namespace convoke
