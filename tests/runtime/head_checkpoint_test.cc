#include "runtime/model_files/head_checkpoint.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/support/model_directory.h"
#include "tests/support/torch_file.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;
using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;

const fs::path kFiles = fs::path(CONVOKE_SOURCE_DIR) / "tests/golden/torch_files";

std::string error_of(const fs::path& path, ErrorKind kind = ErrorKind::kModel) {
  try {
    open_head_checkpoint(path);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "no error";
}

/// A file of torch.save with one tensor [1] of this name.
std::string torch_bytes(const std::string& name) {
  const std::string tensor = pickle::tensor(pickle::storage("FloatStorage", "0", 1), 0, {1}, {1});
  return zip_bytes({{"archive/data.pkl", pickle::whole(pickle::dict({pickle::text(name), tensor}))},
                    {"archive/data/0", "1234"}});
}

std::string safetensors_of(const std::string& name) {
  return safetensors_bytes({{name, DType::kFloat32, {1}, ""}});
}

std::string only_tensor(const fs::path& path) {
  const auto source = open_head_checkpoint(path);
  EXPECT_THAT(source->list(), SizeIs(1));
  EXPECT_EQ(source->tensor(source->list().front().name).cols, 1);
  return source->list().front().name;
}

TEST(HeadCheckpoint, FirstOfTheFilesThatIsThere) {
  TemporaryDirectory directory;
  directory.write("config.json", "{}");
  EXPECT_THAT(error_of(directory.path()),
              AllOf(HasSubstr(directory.path().string() + ": has no drafter's weights"),
                    HasSubstr("looked for model.safetensors, model.safetensors.index.json, "
                              "pytorch_model.bin, pytorch_model.bin.index.json, "
                              "medusa_lm_head.safetensors, medusa_lm_head.pt")));
  // From the last to the first: each goes before those that are there already.
  directory.write("medusa_lm_head.pt", torch_bytes("6"));
  EXPECT_EQ(only_tensor(directory.path()), "6");
  directory.write("medusa_lm_head.safetensors", safetensors_of("5"));
  EXPECT_EQ(only_tensor(directory.path()), "5");
  directory.write("pytorch_model.bin.index.json", R"({"weight_map": {"4": "4.bin"}})");
  directory.write("4.bin", torch_bytes("4"));
  EXPECT_EQ(only_tensor(directory.path()), "4");
  directory.write("pytorch_model.bin", torch_bytes("3"));
  EXPECT_EQ(only_tensor(directory.path()), "3");
  directory.write("model.safetensors.index.json", R"({"weight_map": {"2": "2.safetensors"}})");
  directory.write("2.safetensors", safetensors_of("2"));
  EXPECT_EQ(only_tensor(directory.path()), "2");
  directory.write("model.safetensors", safetensors_of("1"));
  EXPECT_EQ(only_tensor(directory.path()), "1");
}

TEST(HeadCheckpoint, AFileIsKnownByItsBytesOrItsEnding) {
  TemporaryDirectory directory;
  EXPECT_EQ(only_tensor(directory.write("blob", torch_bytes("a"))), "a");
  EXPECT_EQ(only_tensor(directory.write("blob", safetensors_of("b"))), "b");
  EXPECT_EQ(only_tensor(directory.write("state_20/model.safetensors", safetensors_of("c"))), "c");
  EXPECT_EQ(only_tensor(directory.write("x.index.json", R"({"weight_map": {"b": "blob"}})")), "b");
  EXPECT_THAT(open_head_checkpoint(kFiles / "kinds-1.6.pt")->list(), SizeIs(20));
  EXPECT_THAT(error_of(kFiles / "legacy-2.15.pt"), HasSubstr("before 1.6"));
  for (const char* name : {"a.bin", "a.pt", "a.pth", "a.ckpt"}) {
    EXPECT_THAT(error_of(directory.write(name, "nothing")), HasSubstr("not a file of torch.save"));
  }
  EXPECT_THAT(error_of(directory.write("a", "nothing")), HasSubstr("safetensors file"));
  EXPECT_THAT(error_of(directory.write("empty", "")), HasSubstr("empty"));
}

TEST(HeadCheckpoint, WhatIsNotThere) {
  TemporaryDirectory directory;
  EXPECT_THAT(error_of(directory.path() / "none"), HasSubstr("none: No such file"));
  fs::create_symlink("nowhere", directory.path() / "pytorch_model.bin");
  EXPECT_THAT(error_of(directory.path()), HasSubstr("pytorch_model.bin: cannot open"));
}

TEST(HeadCheckpoint, ShardsOfBothKindsAreOneSource) {
  TemporaryDirectory directory;
  directory.write("one.bin", torch_bytes("a"));
  directory.write("two.safetensors", safetensors_of("b"));
  const fs::path index =
      directory.write("pytorch_model.bin.index.json",
                      R"({"weight_map": {"a": "one.bin", "b": "two.safetensors"}})");
  const auto source = open_head_checkpoint(directory.path());
  EXPECT_THAT(source->list(), SizeIs(2));
  EXPECT_EQ(source->describe(), index.string());
  for (const char* name : {"a", "b"}) {
    EXPECT_TRUE(source->contains(name));
    source->will_need(source->tensor(name));
    source->done_with(source->tensor(name));
  }
  EXPECT_EQ(*source->tensor("a").row<char>(0), '1');
  EXPECT_FALSE(source->contains("c"));
  EXPECT_THROW(source->tensor("c"), Error);
}

TEST(HeadCheckpoint, AnIndexThatLies) {
  TemporaryDirectory directory;
  directory.write("one.bin", torch_bytes("a"));
  directory.write("two.bin", torch_bytes("a"));
  const auto error_with = [&](const std::string& map) {
    directory.write("pytorch_model.bin.index.json", "{\"weight_map\": " + map + "}");
    return error_of(directory.path());
  };
  EXPECT_EQ(error_with(R"({"a": "one.bin"})"), "no error");
  EXPECT_THAT(error_with(R"({"a": "one.bin", "b": "two.bin"})"),
              AllOf(HasSubstr("two.bin: tensor \"a\" is in"), HasSubstr("one.bin too"),
                    HasSubstr("two.bin: tensor \"b\" is missing, though")));
  EXPECT_THAT(error_with(R"({"a": "three.bin"})"), HasSubstr("three.bin: cannot open"));
  EXPECT_THAT(error_with(R"({"a": "../one.bin"})"), HasSubstr("is not the name of a file in this"));
  EXPECT_THAT(error_with(R"({"a": "/etc/passwd"})"),
              HasSubstr("is not the name of a file in this"));
  EXPECT_THAT(error_with(R"({"a": 5})"), HasSubstr("must name a file"));
  EXPECT_THAT(error_with("{}"), HasSubstr("names no tensor"));
  EXPECT_THAT(error_with("[]"), HasSubstr("must have an object 'weight_map'"));
  EXPECT_NE(error_with(R"({"a": "pytorch_model.bin.index.json"})"), "no error") << "itself";
}

TEST(HeadCheckpoint, TablesOfSafetensors) {
  TemporaryDirectory directory;
  directory.write(
      "model.safetensors",
      safetensors_bytes(R"({"d2t":{"dtype":"I64","shape":[2],"data_offsets":[0,16]},)"
                        R"("t2d":{"dtype":"BOOL","shape":[2],"data_offsets":[16,18]},)"
                        R"("bad":{"dtype":"BOOL","shape":[2],"data_offsets":[18,20]}})",
                        little_endian(7, 8) + std::string(8, '\xff') + std::string("\1\0\1\2", 4)));
  const auto source = open_head_checkpoint(directory.path());
  EXPECT_THAT(int64_values(*source, "d2t"), testing::ElementsAre(7, -1));
  EXPECT_THAT(bool_values(*source, "t2d"), testing::ElementsAre(true, false));
  EXPECT_THAT([&] { bool_values(*source, "bad"); },
              testing::ThrowsMessage<Error>(HasSubstr("'bad': element 1 of a bool tensor is 2")));
}

}  // namespace
}  // namespace convoke
