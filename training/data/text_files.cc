#include "training/data/text_files.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <set>
#include <utility>

#include "kernels/check.h"
#include "launcher/json_message.h"
#include "launcher/line_reader.h"

namespace convoke {

namespace {

using Json = nlohmann::ordered_json;

constexpr int kMaxDepth = 64;
constexpr size_t kReadSize = size_t{1} << 20;
constexpr std::string_view kByteOrderMark = "\xEF\xBB\xBF";
constexpr std::array kCompressed = {".gz", ".xz", ".zst", ".bz2", ".lz4", ".zip"};

/// What is wrong with a line, before its place is known; never leaves this file.
struct LineFault {
  std::string message;
};

template <typename... Args>
[[noreturn]] void fault(fmt::format_string<Args...> format, Args&&... args) {
  throw LineFault{fmt::format(format, std::forward<Args>(args)...)};
}

/// Nesting is bounded: whoever walks the value recursively must not run out of stack.
Json parse_object(std::string_view line) {
  const auto guard = [](int depth, Json::parse_event_t, Json&) {
    if (depth > kMaxDepth) fault("lists or objects lie more than {} deep", kMaxDepth);
    return true;
  };
  Json parsed;
  try {
    parsed = Json::parse(line.begin(), line.end(), guard);
  } catch (const Json::exception& error) {
    fault("not JSON: {}", parse_message(error));
  }
  if (!parsed.is_object()) fault("{} is not an object", quote_json(parsed));
  return parsed;
}

std::vector<int32_t> read_tokens(const Json& list, int vocabulary) {
  if (!list.is_array()) fault("tokens: {} is not a list of token ids", quote_json(list));
  std::vector<int32_t> tokens;
  tokens.reserve(list.size());
  for (const Json& token : list) {
    // An unsigned number that does not fit int64 becomes a negative one.
    const int64_t id = token.is_number_integer() ? token.get<int64_t>() : -1;
    if (id < 0 || id >= vocabulary) {
      fault("tokens: {} is not a token id below the vocabulary's size of {}", quote_json(token),
            vocabulary);
    }
    tokens.push_back(int32_t(id));
  }
  return tokens;
}

/// Content may be a list of parts or null (a call of a tool): templates know what to do with it.
void check_messages(const Json& messages) {
  if (!messages.is_array() || messages.empty()) {
    fault("messages: {} is not a list of messages",
          messages.is_array() ? "an empty list" : quote_json(messages));
  }
  for (size_t i = 0; i < messages.size(); ++i) {
    const Json& message = messages[i];
    if (!message.is_object()) fault("messages[{}]: is not an object", i);
    const auto role = message.find("role");
    if (role == message.end() || !role->is_string() || *role == "") {
      fault("messages[{}]: role: is not there or not a name", i);
    }
    const auto content = message.find("content");
    if (content == message.end()) fault("messages[{}]: content: is missing", i);
    if (!content->is_string() && !content->is_array() && !content->is_null()) {
      fault("messages[{}]: content: {} is not text", i, quote_json(*content));
    }
  }
}

std::string render(const Json& messages, const RenderChat& render_chat) {
  check_messages(messages);
  if (!render_chat) {
    fault(
        "messages: the model has no chat template; give `text` instead, or the model's folder "
        "a template");
  }
  try {
    return render_chat(messages);
  } catch (const Error& error) {
    fault("messages: {}", error.what());
  }
}

TrainingDocument read_line(std::string_view line, int vocabulary, const RenderChat& render_chat) {
  const Json parsed = parse_object(line);
  const auto find = [&](const char* key) {
    const auto it = parsed.find(key);
    return it == parsed.end() || it->is_null() ? nullptr : &*it;
  };
  const Json* text = find("text");
  const Json* messages = find("messages");
  const Json* tokens = find("tokens");
  const int given = (text != nullptr) + (messages != nullptr) + (tokens != nullptr);
  if (given != 1) {
    fault("has {} of `text`, `messages` and `tokens`; it should have one",
          given == 0 ? "none" : "several");
  }
  TrainingDocument document;
  if (tokens) {
    document.kind = TrainingDocument::Kind::kTokens;
    document.tokens = read_tokens(*tokens, vocabulary);
  } else if (messages) {
    document.kind = TrainingDocument::Kind::kChat;
    document.text = render(*messages, render_chat);
  } else {
    if (!text->is_string()) fault("text: {} is not text", quote_json(*text));
    document.text = text->get<std::string>();
  }
  return document;
}

std::string extension(const std::filesystem::path& path) {
  std::string name = path.extension().string();
  std::ranges::transform(name, name.begin(), [](char c) { return char(std::tolower(uint8_t(c))); });
  return name;
}

/// Takes away the first bytes of a character whose other bytes are not there.
void drop_partial_character(std::string& text) {
  const auto byte = [&](size_t i) { return uint8_t(text[i]); };
  size_t lead = text.size();
  while (lead > 0 && text.size() - lead < 3 && (byte(lead - 1) & 0xC0) == 0x80) --lead;
  if (lead == 0 || byte(lead - 1) < 0xC0) return;
  --lead;
  const size_t length = byte(lead) >= 0xF0 ? 4 : byte(lead) >= 0xE0 ? 3 : 2;
  if (lead + length > text.size()) text.resize(lead);
}

std::string read_beginning(const std::filesystem::path& path, size_t limit) {
  struct Close {
    void operator()(FILE* file) const { fclose(file); }
  };
  const std::unique_ptr<FILE, Close> file(fopen(path.c_str(), "rbe"));
  if (!file) {
    throw_error(ErrorKind::kResource, "{}: cannot open: {}", path.string(), strerror(errno));
  }
  std::string text;
  while (text.size() < limit) {
    const size_t old = text.size();
    const size_t wanted = std::min(limit - old, std::max(kReadSize, old));
    text.resize(old + wanted);
    text.resize(old + fread(text.data() + old, 1, wanted, file.get()));
    if (text.size() < old + wanted) break;
  }
  if (ferror(file.get())) {
    throw_error(ErrorKind::kResource, "{}: cannot read: {}", path.string(), strerror(errno));
  }
  if (text.size() == limit) drop_partial_character(text);
  return text;
}

}  // namespace

TrainingDocument parse_training_line(std::string_view line, int vocabulary,
                                     const RenderChat& render_chat, const std::string& where) {
  try {
    return read_line(line, vocabulary, render_chat);
  } catch (const LineFault& error) {
    throw_error(ErrorKind::kUsage, "{}: {}", where, error.message);
  }
}

TextFiles::TextFiles(TextFilesOptions options) : options_(std::move(options)) {
  if (options_.files.empty()) throw_error(ErrorKind::kUsage, "--data: names no file");
  std::set<std::pair<dev_t, ino_t>> seen;
  for (const auto& path : options_.files) {
    const std::string name = path.string();
    struct stat info;
    if (stat(path.c_str(), &info) != 0 || access(path.c_str(), R_OK) != 0) {
      throw_error(ErrorKind::kResource, "--data: {}: cannot open: {}", name, strerror(errno));
    }
    if (S_ISDIR(info.st_mode)) {
      throw_error(ErrorKind::kUsage, "--data: {}: is a folder; name the files in it", name);
    }
    if (std::ranges::find(kCompressed, extension(path)) != kCompressed.end()) {
      throw_error(ErrorKind::kUsage, "--data: {}: is compressed; decompress it first", name);
    }
    if (!seen.emplace(info.st_dev, info.st_ino).second) {
      // It would be learnt from and measured on.
      throw_error(ErrorKind::kUsage, "--data: {}: is named twice", name);
    }
  }
}

TextFiles::~TextFiles() = default;

std::optional<TrainingDocument> TextFiles::next(size_t text_limit) {
  while (true) {
    if (reader_) {
      if (auto document = next_line()) return document;
      reader_.reset();
    }
    if (file_ + 1 == int(options_.files.size())) return std::nullopt;
    ++file_;
    const auto& path = options_.files[size_t(file_)];
    if (extension(path) != ".jsonl") return whole_text(text_limit);
    reader_ = std::make_unique<LineReader>(path);
    documents_ = 0;
  }
}

std::optional<TrainingDocument> TextFiles::next_line() {
  std::string_view line;
  while (true) {
    const auto status = reader_->next(line);
    if (status == LineReader::Status::kWait ||
        (status == LineReader::Status::kLine && is_blank(line))) {
      continue;
    }
    if (status == LineReader::Status::kEnd) break;
    const std::string where = fmt::format("{}:{}", reader_->name(), reader_->line_number());
    auto document = parse_training_line(line, options_.vocabulary, options_.render_chat, where);
    document.file = file_;
    ++documents_;
    return document;
  }
  if (documents_ == 0) throw_error(ErrorKind::kUsage, "{}: has no lines", reader_->name());
  return std::nullopt;
}

TrainingDocument TextFiles::whole_text(size_t text_limit) {
  const auto& path = options_.files[size_t(file_)];
  TrainingDocument document;
  document.file = file_;
  document.text = read_beginning(path, text_limit);
  if (document.text.starts_with(kByteOrderMark)) document.text.erase(0, kByteOrderMark.size());
  if (const size_t zero = document.text.find('\0'); zero != std::string::npos) {
    throw_error(ErrorKind::kUsage, "{}: is not text: byte {} is zero", path.string(), zero);
  }
  if (is_blank(document.text)) throw_error(ErrorKind::kUsage, "{}: has no text", path.string());
  return document;
}

}  // namespace convoke
