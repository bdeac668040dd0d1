#include "runtime/model_files/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <span>

#include "tests/support/model_directory.h"

namespace convoke {
namespace {

using nlohmann::json;
using testing::Each;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

/// Header, and all problems as one text.
std::pair<SafetensorsHeader, std::string> parse(const std::string& bytes) {
  // An exact copy, so that the address sanitizer sees a read past the end.
  const std::vector<char> copy(bytes.begin(), bytes.end());
  std::vector<std::string> problems;
  auto header = parse_safetensors(std::as_bytes(std::span(copy)), "file", problems);
  std::string all;
  for (const auto& problem : problems) all += problem + "\n";
  return {std::move(header), all};
}

std::string problems_of(const std::string& header, std::string_view data) {
  return parse(safetensors_bytes(header, data)).second;
}

std::string problems_of(const json& header, size_t data_bytes) {
  return problems_of(header.dump(), std::string(data_bytes, '\0'));
}

json entry(const char* dtype, const json& shape, const json& begin, const json& end) {
  return {{"dtype", dtype}, {"shape", shape}, {"data_offsets", {begin, end}}};
}

TEST(Safetensors, EveryDTypeAndRank) {
  const std::vector<TensorInfo> infos = {
      {"a", DType::kFloat32, {2, 3}, ""}, {"b", DType::kBFloat16, {5}, ""},
      {"c", DType::kFloat16, {}, ""},     {"d", DType::kInt64, {0, 7}, ""},
      {"e", DType::kBool, {1, 2, 3}, ""}, {"f", DType::kFloat8E4M3, {3, 5}, ""}};
  const std::string bytes = safetensors_bytes(infos);
  const auto [header, problems] = parse(bytes);
  EXPECT_EQ(problems, "");
  ASSERT_THAT(header.tensors, SizeIs(infos.size()));
  uint64_t end = bytes.size() - 24 - 10 - 2 - 6 - 15;
  for (size_t i = 0; i < infos.size(); ++i) {
    EXPECT_EQ(header.tensors[i].name, infos[i].name);
    EXPECT_EQ(header.tensors[i].dtype, infos[i].dtype);
    EXPECT_EQ(header.tensors[i].shape, infos[i].shape);
    EXPECT_EQ(header.tensors[i].begin, end);
    end = header.tensors[i].end;
  }
  EXPECT_EQ(end, bytes.size());
  EXPECT_EQ(header.metadata.at("format"), "pt");
}

TEST(Safetensors, NoTensorsAndTrailingSpaces) {
  EXPECT_EQ(problems_of("{}", ""), "");
  EXPECT_EQ(problems_of("{}      ", ""), "");
}

TEST(Safetensors, EveryTruncationIsAProblem) {
  const std::string bytes =
      safetensors_bytes({{"a", DType::kFloat32, {4, 4}, ""}, {"b", DType::kBFloat16, {3}, ""}});
  for (size_t size = 0; size < bytes.size(); ++size) {
    EXPECT_NE(parse(bytes.substr(0, size)).second, "") << size;
  }
  EXPECT_THAT(parse(bytes.substr(0, bytes.size() - 1)).second,
              HasSubstr("tensor \"b\": ends at byte 70 of the data, but the file has only 69"));
  EXPECT_THAT(parse(bytes + '\0').second, HasSubstr("1 bytes after the last tensor"));
}

TEST(Safetensors, HeaderLengthLies) {
  std::string bytes = safetensors_bytes({{"a", DType::kFloat32, {1}, ""}});
  bytes[7] = '\x7f';
  EXPECT_THAT(parse(bytes).second, HasSubstr("not a safetensors file: its header would have"));
  bytes[7] = '\xff';
  EXPECT_THAT(parse(bytes).second, HasSubstr("not a safetensors file"));
  bytes[7] = 0;
  bytes[2] = 1;
  EXPECT_THAT(parse(bytes).second, HasSubstr("is cut short"));
  EXPECT_THAT(parse(std::string(8, '\0')).second, HasSubstr("does not begin with '{'"));
  EXPECT_THAT(parse("abc").second, HasSubstr("has 3 bytes"));
  EXPECT_THAT(parse("").second, HasSubstr("has 0 bytes"));
  EXPECT_THAT(parse("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n").second,
              HasSubstr("Git LFS pointer"));
}

TEST(Safetensors, HeaderIsNoJson) {
  for (const char* header : {"{", "{]", "{\"a\":}", "{'a': 1}", "{\"\xff\": 1}", "{} {}"}) {
    EXPECT_THAT(problems_of(header, ""), HasSubstr("file: header: not valid JSON")) << header;
  }
  for (const char* header : {" {}", "[]", "null"}) {
    EXPECT_THAT(problems_of(header, ""), HasSubstr("does not begin with '{'")) << header;
  }
}

TEST(Safetensors, OffsetsLie) {
  const json max = INT64_MAX;
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 0, 8)}}, 4), HasSubstr("ends at byte 8"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, max, max)}}, 4),
              HasSubstr("tensor \"a\": ends"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 4, 0)}}, 4), HasSubstr("[begin, end]"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, -4, 0)}}, 4), HasSubstr("not negative"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 0.5, 4)}}, 4), HasSubstr("not negative"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 0, UINT64_MAX)}}, 4), HasSubstr("not negative"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 0, "4")}}, 4), HasSubstr("not negative"));
  json three = entry("F32", {1}, 0, 4);
  three["data_offsets"] = {0, 4, 4};
  EXPECT_THAT(problems_of({{"a", three}}, 4), HasSubstr("[begin, end]"));
  three.erase("data_offsets");
  EXPECT_THAT(problems_of({{"a", three}}, 4), HasSubstr("data_offsets must be a list"));
}

TEST(Safetensors, OverlapsAndHoles) {
  EXPECT_THAT(problems_of({{"a", entry("F32", {2}, 0, 8)}, {"b", entry("F32", {1}, 4, 8)}}, 8),
              HasSubstr("tensor \"b\": overlaps tensor \"a\""));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 0, 4)}, {"b", entry("F32", {1}, 0, 4)}}, 4),
              HasSubstr("overlaps"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 0, 4)}, {"b", entry("F32", {1}, 8, 12)}}, 12),
              HasSubstr("tensor \"b\": 4 bytes before it belong to no tensor"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {1}, 4, 8)}}, 8), HasSubstr("4 bytes before it"));
}

TEST(Safetensors, ShapesLie) {
  EXPECT_THAT(problems_of({{"a", entry("F32", {2}, 0, 4)}}, 4), HasSubstr("does not fit its 4"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {0}, 0, 4)}}, 4), HasSubstr("does not fit its 4"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {-1}, 0, 4)}}, 4), HasSubstr("shape must be a list"));
  EXPECT_THAT(problems_of({{"a", entry("F32", 1, 0, 4)}}, 4), HasSubstr("shape must be a list"));
  // Products that wrap around to the right number of bytes.
  EXPECT_THAT(problems_of({{"a", entry("F32", {int64_t{1} << 62, 4}, 0, 0)}}, 0),
              HasSubstr("does not fit its 0"));
  EXPECT_THAT(problems_of({{"a", entry("F32", {(int64_t{1} << 62) + 1}, 0, 4)}}, 4),
              HasSubstr("does not fit its 4"));
}

TEST(Safetensors, DTypesThatAreNotSupported) {
  for (const char* dtype : {"F64", "I32", "F8_E5M2", "U8", "f32", ""}) {
    EXPECT_THAT(problems_of({{"a", entry(dtype, {1}, 0, 4)}}, 4),
                HasSubstr("is not supported (supported: F32, BF16, F16, I64, BOOL, F8_E4M3)"))
        << dtype;
  }
  json no_dtype = entry("F32", {1}, 0, 4);
  no_dtype["dtype"] = 7;
  EXPECT_THAT(problems_of({{"a", no_dtype}}, 4), HasSubstr("dtype 7 is not supported"));
  no_dtype.erase("dtype");
  EXPECT_THAT(problems_of({{"a", no_dtype}}, 4), HasSubstr("tensor \"a\": dtype null"));
}

TEST(Safetensors, DuplicateNamesAndKeys) {
  const std::string tensor = entry("F32", {1}, 0, 4).dump();
  EXPECT_THAT(problems_of("{\"a\":" + tensor + ",\"a\":" + tensor + "}", "1234"),
              HasSubstr("key 'a' is there twice"));
  EXPECT_THAT(problems_of(R"({"a":{"dtype":"F32","dtype":"I64","shape":[1]}})", "1234"),
              HasSubstr("key 'dtype' is there twice"));
}

TEST(Safetensors, MetadataAndEntriesOfTheWrongKind) {
  EXPECT_THAT(problems_of({{"__metadata__", {{"a", 1}}}}, 0), HasSubstr("__metadata__"));
  EXPECT_THAT(problems_of({{"__metadata__", "pt"}}, 0), HasSubstr("__metadata__"));
  EXPECT_THAT(problems_of({{"a", {1, 2}}}, 0), HasSubstr("tensor \"a\": must be an object"));
}

TEST(Safetensors, EveryBadTensorIsNamed) {
  const std::string problems =
      problems_of({{"a", entry("F64", {1}, 0, 8)}, {"b", entry("F32", {3}, 8, 12)}, {"c", 5}}, 12);
  EXPECT_THAT(problems, HasSubstr("tensor \"a\""));
  EXPECT_THAT(problems, HasSubstr("tensor \"b\""));
  EXPECT_THAT(problems, HasSubstr("tensor \"c\""));
}

TEST(Safetensors, HugeNamesAreCutInMessages) {
  const std::string name(100000, 'n');
  EXPECT_LT(problems_of({{name, entry("F64", {1}, 0, 8)}}, 8).size(), 400u);
}

}  // namespace
}  // namespace convoke
