#include "training/data/text_files.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "kernels/check.h"
#include "tests/launcher/fixture.h"

namespace convoke {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using testing::TempFolder;
using Kind = TrainingDocument::Kind;

constexpr int kVocabulary = 100;

/// "role:content|" for each message; a role that no template knows is refused.
std::string render(const nlohmann::ordered_json& messages) {
  std::string text;
  for (const auto& message : messages) {
    const auto role = message["role"].get<std::string>();
    if (role == "stranger") throw_error(ErrorKind::kUsage, "role 'stranger' is not known");
    text += role + ":" + message["content"].dump() + "|";
  }
  return text;
}

TrainingDocument parse(std::string_view line, const RenderChat& chat = render) {
  return parse_training_line(line, kVocabulary, chat, "data.jsonl:7");
}

/// What parse() says of a wrong line.
std::string complaint(std::string_view line, const RenderChat& chat = render) {
  try {
    parse(line, chat);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kUsage) << line;
    EXPECT_THAT(error.what(), StartsWith("data.jsonl:7: ")) << line;
    return error.what();
  }
  ADD_FAILURE() << "accepted: " << line;
  return "";
}

TEST(TrainingLine, Kinds) {
  auto document = parse(R"({"meta": {"n": 1.5e3}, "text": "a \u00e9\n b", "tokens": null})");
  EXPECT_EQ(document.kind, Kind::kText);
  EXPECT_EQ(document.text, "a \xC3\xA9\n b");

  document = parse(R"({"tokens": [0, 99, 5]})");
  EXPECT_EQ(document.kind, Kind::kTokens);
  EXPECT_THAT(document.tokens, ElementsAre(0, 99, 5));

  document = parse(R"({"messages": [{"role": "user", "content": "hi", "name": "x"},)"
                   R"({"role": "assistant", "content": null},)"
                   R"({"role": "user", "content": [{"type": "text", "text": "b"}]}]})");
  EXPECT_EQ(document.kind, Kind::kChat);
  EXPECT_EQ(document.text, R"(user:"hi"|assistant:null|user:[{"type":"text","text":"b"}]|)");
}

TEST(TrainingLine, TemplateSeesKeysInTheirOrder) {
  std::string seen;
  parse(R"({"messages": [{"role": "u", "zebra": 1, "content": "", "ape": 2}]})",
        [&](const nlohmann::ordered_json& messages) {
          seen = messages.dump();
          return "";
        });
  EXPECT_EQ(seen, R"([{"role":"u","zebra":1,"content":"","ape":2}])");
}

TEST(TrainingLine, EmptyDocumentsAreNoFault) {
  EXPECT_EQ(parse(R"({"text": ""})").text, "");
  EXPECT_TRUE(parse(R"({"tokens": []})").tokens.empty());
}

TEST(TrainingLine, SaysWhatIsWrong) {
  const std::vector<std::pair<std::string, std::string>> cases = {
      {"", "not JSON"},
      {"plain words", "not JSON"},
      {R"({"text": "a"} {"text": "b"})", "not JSON"},
      {R"({"text": "a")", "not JSON"},
      {"{\"text\": \"\xFF\"}", "not JSON"},
      {R"({"text": "\ud800"})", "not JSON"},
      {R"({"tokens": [1e999]})", "not JSON"},
      {std::string("{\"text\": \"\0\"}", 13), "not JSON"},
      {R"("text")", "\"text\" is not an object"},
      {"[1, 2]", "a list is not an object"},
      {"{}", "none of `text`, `messages` and `tokens`"},
      {R"({"Text": "a"})", "none of"},
      {R"({"text": "a", "tokens": [1]})", "several of"},
      {R"({"text": ["a"]})", "text: a list is not text"},
      {R"({"text": 5})", "text: 5 is not text"},
      {R"({"tokens": 5})", "tokens: 5 is not a list"},
      {R"({"tokens": [100]})", "100 is not a token id below the vocabulary's size of 100"},
      {R"({"tokens": [-1]})", "-1 is not a token id"},
      {R"({"tokens": [1.0]})", "1.0 is not a token id"},
      {R"({"tokens": ["1"]})", "\"1\" is not a token id"},
      {R"({"tokens": [[1]]})", "a list is not a token id"},
      {R"({"tokens": [4294967297]})", "4294967297 is not a token id"},
      {R"({"tokens": [18446744073709551615]})", "18446744073709551615 is not a token id"},
      {R"({"messages": "hi"})", "messages: \"hi\" is not a list of messages"},
      {R"({"messages": []})", "messages: an empty list"},
      {R"({"messages": ["hi"]})", "messages[0]: is not an object"},
      {R"({"messages": [{"content": "a"}]})", "messages[0]: role"},
      {R"({"messages": [{"role": "", "content": "a"}]})", "messages[0]: role"},
      {R"({"messages": [{"role": "u", "content": "a"}, {"role": "u"}]})", "messages[1]: content"},
      {R"({"messages": [{"role": "u", "content": 3}]})", "messages[0]: content: 3 is not text"},
      {R"({"messages": [{"role": "stranger", "content": "a"}]})", "role 'stranger' is not known"},
      {R"({"text": "a", "x": )" + std::string(5000, '[') + std::string(5000, ']') + "}",
       "more than 64 deep"},
      {std::string(1 << 20, '['), "more than 64 deep"},
      {R"({"messages": )" + std::string(1 << 20, '['), "more than 64 deep"},
  };
  for (const auto& [line, expected] : cases) {
    const std::string said = complaint(line);
    EXPECT_THAT(said, HasSubstr(expected)) << line.substr(0, 80);
    EXPECT_LT(said.size(), 500u);
    EXPECT_EQ(said.find('\n'), std::string::npos);
  }
}

TEST(TrainingLine, MessagesNeedATemplate) {
  EXPECT_THAT(complaint(R"({"messages": [{"role": "u", "content": "a"}]})", nullptr),
              HasSubstr("the model has no chat template"));
  EXPECT_EQ(parse(R"({"text": "a"})", nullptr).text, "a");
}

/// Files of a folder, as TextFiles gives them.
struct Files {
  TempFolder folder;
  std::vector<std::filesystem::path> paths;

  void add(const std::string& name, const std::string& content) {
    paths.push_back(folder.write(name, content));
  }
  std::vector<TrainingDocument> read(size_t text_limit = SIZE_MAX) const {
    TextFiles files({paths, kVocabulary, render});
    std::vector<TrainingDocument> documents;
    while (auto document = files.next(text_limit)) documents.push_back(std::move(*document));
    EXPECT_FALSE(files.next().has_value());
    return documents;
  }
  std::vector<std::string> texts(size_t text_limit = SIZE_MAX) const {
    std::vector<std::string> texts;
    for (const auto& document : read(text_limit)) texts.push_back(document.text);
    return texts;
  }
  /// The error of reading, without the folder's name.
  std::string complaint(ErrorKind kind = ErrorKind::kUsage) const {
    try {
      read();
    } catch (const Error& error) {
      EXPECT_EQ(error.kind(), kind);
      std::string text = error.what();
      const std::string name = (folder / "").string();
      for (size_t at; (at = text.find(name)) != std::string::npos;) text.erase(at, name.size());
      return text;
    }
    ADD_FAILURE() << "nothing was wrong";
    return "";
  }
};

TEST(TextFiles, FilesAndLinesInOrder) {
  Files files;
  files.add("b.jsonl",
            "\xEF\xBB\xBF{\"text\": \"1\"}\r\n\n  \n{\"tokens\": [7]}\n{\"text\": \"2\"}");
  files.add("a.txt", "\xEF\xBB\xBFone\r\ntwo {\"text\"\n");
  files.add("C.JSONL", "{\"text\": \"3\"}\n");
  const auto documents = files.read();
  EXPECT_THAT(files.texts(), ElementsAre("1", "", "2", "one\r\ntwo {\"text\"\n", "3"));
  EXPECT_THAT(documents[1].tokens, ElementsAre(7));
  EXPECT_EQ(documents[2].file, 0);
  EXPECT_EQ(documents[3].file, 1);
  EXPECT_EQ(documents[3].kind, Kind::kText);
  EXPECT_EQ(documents[4].file, 2);
}

TEST(TextFiles, WrongLinesNameFileAndLine) {
  Files files;
  files.add("good.jsonl", "{\"text\": \"1\"}\n");
  files.add("bad.jsonl", "{\"text\": \"1\"}\n\n{\"text\": 1}\n");
  EXPECT_EQ(files.complaint(), "bad.jsonl:3: text: 1 is not text");
}

TEST(TextFiles, TextIsReadToItsLimitInWholeCharacters) {
  const std::string text = "a\xC3\xA9\xE2\x9C\x93\xF0\x9F\x98\x80z";
  Files files;
  files.add("a", text);
  const size_t borders[] = {1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11, 11};
  for (size_t limit = 1; limit <= 12; ++limit) {
    EXPECT_THAT(files.texts(limit), ElementsAre(text.substr(0, borders[limit - 1]))) << limit;
  }
  Files large;
  large.add("a", std::string(5'000'000, 'x') + "end");
  EXPECT_EQ(large.texts()[0].size(), 5'000'003u);
  EXPECT_EQ(large.texts(3'000'001)[0].size(), 3'000'001u);
}

TEST(TextFiles, BytesThatAreNotUtf8AreLeftToTheTokenizer) {
  const std::string text = "a\xFF\x80\x80\x80\x80";
  Files files;
  files.add("a", text);
  EXPECT_THAT(files.texts(), ElementsAre(text));
  EXPECT_EQ(files.texts(6)[0].size(), 6u);
}

TEST(TextFiles, RefusesFilesWithoutDocuments) {
  const auto complaint = [](const std::string& name, const std::string& content) {
    Files files;
    files.add(name, content);
    return files.complaint();
  };
  EXPECT_EQ(complaint("a.jsonl", ""), "a.jsonl: has no lines");
  EXPECT_EQ(complaint("a.jsonl", "\n \n"), "a.jsonl: has no lines");
  EXPECT_EQ(complaint("a.txt", ""), "a.txt: has no text");
  EXPECT_EQ(complaint("a.txt", " \n\t\n"), "a.txt: has no text");
  EXPECT_EQ(complaint("a.bin", std::string("ab\0c", 4)), "a.bin: is not text: byte 2 is zero");
}

TEST(TextFiles, RefusesBeforeReading) {
  Files none;
  EXPECT_EQ(none.complaint(), "--data: names no file");

  Files missing;
  missing.add("bad.jsonl", "not JSON");
  missing.paths.push_back(missing.folder / "missing.txt");
  EXPECT_EQ(missing.complaint(ErrorKind::kResource),
            "--data: missing.txt: cannot open: No such file or directory");

  Files twice;
  twice.add("a.txt", "text");
  twice.paths.push_back(twice.folder / "link.txt");
  std::filesystem::create_symlink(twice.paths[0], twice.paths[1]);
  EXPECT_EQ(twice.complaint(), "--data: link.txt: is named twice");

  Files folder;
  folder.paths.push_back(folder.folder / "sub");
  std::filesystem::create_directory(folder.paths[0]);
  EXPECT_EQ(folder.complaint(), "--data: sub: is a folder; name the files in it");

  for (const char* name : {"a.jsonl.xz", "a.txt.GZ", "a.zst"}) {
    Files compressed;
    compressed.add(name, "text");
    EXPECT_EQ(compressed.complaint(),
              fmt::format("--data: {}: is compressed; decompress it first", name));
  }
}

}  // namespace
}  // namespace convoke
