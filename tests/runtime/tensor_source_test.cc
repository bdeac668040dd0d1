#include "runtime/model_files/tensor_source.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <fstream>
#include <functional>
#include <nlohmann/json.hpp>
#include <thread>

#include "runtime/model_files/checkpoint.h"
#include "tests/support/golden_model.h"
#include "tests/support/model_directory.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;

const fs::path kModels = fs::path(CONVOKE_SOURCE_DIR) / "tests/golden/models";

ModelConfig small_config(const json& changes = json::object()) {
  json config = small_llama_config();
  config.update(changes);
  return ModelConfig::parse(config.dump(), "", "dir");
}

std::string error_of(const std::function<void()>& action, ErrorKind kind = ErrorKind::kModel) {
  try {
    action();
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), kind);
    return error.what();
  }
  return "no error";
}

std::string open_error(const TemporaryDirectory& directory) {
  return error_of([&] { open_checkpoint(directory.path()); });
}

float to_float(const TensorView& view, int64_t row, int64_t col) {
  if (view.dtype == DType::kFloat32) return view.row<float>(row)[col];
  const uint16_t bits = view.row<uint16_t>(row)[col];
  if (view.dtype == DType::kBFloat16) return std::bit_cast<float>(uint32_t{bits} << 16);
  const int exponent = (bits >> 10) & 31;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(bits & 1023), -24)
                              : std::ldexp(static_cast<float>((bits & 1023) | 1024), exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

TEST(Checkpoint, EveryGoldenModelOpensAndFits) {
  for (const std::string& name : golden_model_names(kModels)) {
    const ModelConfig config = ModelConfig::load(kModels / name);
    const auto source = open_checkpoint(kModels / name);
    EXPECT_EQ(error_of([&] { check_tensors(config, *source); }), "no error") << name;
  }
}

TEST(Checkpoint, EmbeddingRowsAreWhatTheReferenceRead) {
  for (const std::string& name : golden_model_names(kModels)) {
    const GoldenModel golden = load_golden_model(kModels / name);
    const auto source = open_checkpoint(golden.directory);
    const TensorView table = source->tensor("model.embed_tokens.weight");
    ASSERT_EQ(table.cols, static_cast<int64_t>(golden.embedding.size()));
    for (int64_t i = 0; i < table.cols; ++i) {
      EXPECT_EQ(to_float(table, golden.prompt.back(), i), golden.embedding[static_cast<size_t>(i)]);
    }
  }
}

TEST(Checkpoint, ViewsOfEveryRank) {
  TemporaryDirectory directory;
  directory.write("model.safetensors", safetensors_bytes({{"matrix", DType::kFloat32, {2, 3}, ""},
                                                          {"vector", DType::kBFloat16, {5}, ""},
                                                          {"scalar", DType::kInt64, {}, ""},
                                                          {"cube", DType::kBool, {2, 3, 4}, ""},
                                                          {"none", DType::kFloat32, {0, 4}, ""}}));
  const auto source = open_checkpoint(directory.path());
  const auto extents = [&](const char* name) {
    const TensorView view = source->tensor(name);
    EXPECT_EQ(view.row_stride, view.cols);
    return std::pair(view.rows, view.cols);
  };
  EXPECT_EQ(extents("matrix"), std::pair(int64_t{2}, int64_t{3}));
  EXPECT_EQ(extents("vector"), std::pair(int64_t{1}, int64_t{5}));
  EXPECT_EQ(extents("scalar"), std::pair(int64_t{1}, int64_t{1}));
  EXPECT_EQ(extents("cube"), std::pair(int64_t{6}, int64_t{4}));
  EXPECT_EQ(extents("none"), std::pair(int64_t{0}, int64_t{4}));
  EXPECT_EQ(source->tensor("vector").row<uint16_t>(0)[4], 0x0202);
  EXPECT_THAT(source->list(), SizeIs(5));
  EXPECT_FALSE(source->contains("other"));
  EXPECT_THAT(error_of([&] { source->tensor("other"); }),
              AllOf(HasSubstr(directory.path().string()), HasSubstr("tensor 'other' is missing")));
  for (const TensorInfo& info : source->list()) {  // hints about anything are harmless
    source->will_need(source->tensor(info.name));
    source->done_with(source->tensor(info.name));
  }
}

TEST(Checkpoint, MisalignedTensorsAreCopied) {
  TemporaryDirectory directory;
  const std::string bytes =
      safetensors_bytes(R"({"a":{"dtype":"BOOL","shape":[1],"data_offsets":[0,1]},)"
                        R"("b":{"dtype":"I64","shape":[2],"data_offsets":[1,17]}})",
                        std::string("\1") + std::string(16, '\2'));
  directory.write("model.safetensors", bytes);
  const auto source = open_checkpoint(directory.path());
  const TensorView view = source->tensor("b");
  EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 8, 0u);
  EXPECT_EQ(view.row<int64_t>(0)[1], 0x0202020202020202);
  EXPECT_EQ(source->tensor("b").data, view.data) << "one copy";
  source->will_need(view);
  source->done_with(view);
  EXPECT_EQ(view.row<int64_t>(0)[0], 0x0202020202020202);
}

/// What a source reads of a view.
std::vector<std::byte> read_from(const TensorSource& source, const TensorView& view) {
  std::vector<std::byte> bytes(size_t(view.rows * view.cols) * dtype_size(view.dtype));
  source.read(view, bytes.data());
  return bytes;
}

/// What there is to be seen.
std::vector<std::byte> seen_in(const TensorView& view) {
  std::vector<std::byte> bytes;
  for (int64_t r = 0; r < view.rows; ++r) {
    const auto* const row = view.row<std::byte>(r);
    bytes.insert(bytes.end(), row, row + size_t(view.cols) * dtype_size(view.dtype));
  }
  return bytes;
}

TEST(Checkpoint, ReadsWhatItsViewsShow) {
  const auto source = open_checkpoint(kModels / "llama-sharded-mixed");
  for (const TensorInfo& info : source->list()) {
    const TensorView view = source->tensor(info.name);
    EXPECT_EQ(read_from(*source, view), seen_in(view)) << info.name;
    if (view.rows < 4 || view.cols < 4) continue;
    const TensorView slice = view.row_range(1, 3).col_range(1, view.cols - 1);
    EXPECT_EQ(read_from(*source, slice), seen_in(slice)) << info.name;
  }
}

TEST(Checkpoint, AFileThatIsCutShortWhileItIsReadIsNamed) {
  TemporaryDirectory directory;
  const std::string bytes = safetensors_bytes(
      {{"first", DType::kFloat32, {8, 8}, ""}, {"second", DType::kFloat32, {64, 64}, ""}});
  directory.write("model.safetensors", bytes);
  const auto source = open_checkpoint(directory.path());
  const TensorView first = source->tensor("first"), second = source->tensor("second");
  fs::resize_file(directory.path() / "model.safetensors", bytes.size() - 100);
  EXPECT_EQ(read_from(*source, first), std::vector<std::byte>(8 * 8 * 4, std::byte{1}));
  EXPECT_THAT(error_of([&] { read_from(*source, second); }, ErrorKind::kResource),
              AllOf(HasSubstr((directory.path() / "model.safetensors").string()),
                    HasSubstr("tensor 'second': ends at byte"), HasSubstr("cut short")));
}

TEST(DummySource, ReadsWhatItsViewsShow) {
  const DummySource source(small_config());
  const TensorView view = source.tensor("model.embed_tokens.weight");
  EXPECT_EQ(read_from(source, view), seen_in(view));
  const TensorView slice = view.col_range(2, 5);
  EXPECT_EQ(read_from(source, slice), seen_in(slice));
}

TEST(Checkpoint, NothingToOpen) {
  EXPECT_THAT(error_of([] { open_checkpoint("/no/such/model"); }),
              HasSubstr("/no/such/model: not a directory"));
  TemporaryDirectory directory;
  EXPECT_THAT(open_error(directory), HasSubstr("has neither model.safetensors nor"));
  directory.write("pytorch_model.bin", "x");
  EXPECT_THAT(open_error(directory), HasSubstr("pytorch_model.bin is not supported, convert"));
}

TEST(Checkpoint, FilesThatAreNoFiles) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "model.safetensors";
  fs::create_directory(path);
  EXPECT_THAT(open_error(directory), HasSubstr("model.safetensors: not a regular file"));
  fs::remove(path);
  ASSERT_EQ(mkfifo(path.c_str(), 0600), 0);
  EXPECT_THAT(open_error(directory), HasSubstr("model.safetensors: not a regular file"));
  fs::remove(path);
  fs::create_symlink("nowhere", path);
  EXPECT_THAT(open_error(directory), HasSubstr("model.safetensors: cannot open: No such file"));
  fs::remove(path);
  directory.write("model.safetensors", "");
  EXPECT_THAT(open_error(directory), HasSubstr("model.safetensors: is empty"));
}

TEST(Checkpoint, UnreadableFile) {
  if (geteuid() == 0) GTEST_SKIP() << "root reads everything";
  TemporaryDirectory directory;
  const fs::path path = directory.write("model.safetensors", safetensors_bytes("{}", ""));
  fs::permissions(path, fs::perms::none);
  EXPECT_THAT(error_of([&] { open_checkpoint(directory.path()); }, ErrorKind::kResource),
              HasSubstr("model.safetensors: cannot open: Permission denied"));
}

TEST(Checkpoint, HugeSparseFileWithAHugeHeader) {
  TemporaryDirectory directory;
  const fs::path path = directory.path() / "model.safetensors";
  std::ofstream(path, std::ios::binary) << std::string("\x00\xe1\xf5\x05\0\0\0\0{", 9);
  fs::resize_file(path, uintmax_t{1} << 33);  // the header may have 100 000 000 bytes, no more
  EXPECT_THAT(open_error(directory), HasSubstr("not valid JSON"));
  std::fstream(path, std::ios::binary | std::ios::in | std::ios::out)
      << std::string("\x01\xe1\xf5\x05", 4);
  EXPECT_THAT(open_error(directory), HasSubstr("100000001 bytes (at most 100000000 are allowed)"));
}

class ShardedCheckpoint : public testing::Test {
 protected:
  void write_index(const json& weight_map) {
    directory_.write("model.safetensors.index.json",
                     json{{"metadata", {{"total_size", 0}}}, {"weight_map", weight_map}}.dump());
  }
  std::string file(const char* name) const { return (directory_.path() / name).string(); }

  void SetUp() override {
    directory_.write("one.safetensors", safetensors_bytes({{"a", DType::kFloat32, {1}, ""}}));
    directory_.write("sub/two.safetensors", safetensors_bytes({{"b", DType::kFloat32, {2}, ""}}));
    write_index({{"a", "one.safetensors"}, {"b", "sub/two.safetensors"}});
  }
  TemporaryDirectory directory_;
};

TEST_F(ShardedCheckpoint, Opens) {
  const auto source = open_checkpoint(directory_.path());
  EXPECT_THAT(source->list(), SizeIs(2));
  EXPECT_EQ(source->list()[1].file, file("sub/two.safetensors"));
  EXPECT_EQ(source->tensor("b").cols, 2);
}

TEST_F(ShardedCheckpoint, OneWholeFileComesFirst) {
  directory_.write("model.safetensors", safetensors_bytes({{"c", DType::kFloat32, {1}, ""}}));
  EXPECT_TRUE(open_checkpoint(directory_.path())->contains("c"));
}

TEST_F(ShardedCheckpoint, MissingFile) {
  fs::remove(directory_.path() / "one.safetensors");
  EXPECT_THAT(open_error(directory_), HasSubstr(file("one.safetensors") + ": cannot open"));
}

TEST_F(ShardedCheckpoint, MissingTensor) {
  write_index({{"a", "one.safetensors"}, {"b", "sub/two.safetensors"}, {"c", "one.safetensors"}});
  EXPECT_THAT(open_error(directory_), AllOf(HasSubstr(file("one.safetensors")),
                                            HasSubstr("tensor 'c' is missing, though")));
}

TEST_F(ShardedCheckpoint, TensorInAnotherFile) {
  write_index({{"a", "sub/two.safetensors"}, {"b", "one.safetensors"}});
  EXPECT_THAT(open_error(directory_),
              AllOf(HasSubstr("2 problems"), HasSubstr("tensor 'a' is in " + file("one")),
                    HasSubstr("tensor 'b' is in " + file("sub/two"))));
}

TEST_F(ShardedCheckpoint, TensorTwice) {
  directory_.write("one.safetensors", safetensors_bytes({{"a", DType::kFloat32, {1}, ""},
                                                         {"b", DType::kFloat32, {2}, ""}}));
  EXPECT_THAT(open_error(directory_), AllOf(HasSubstr(file("sub/two.safetensors")),
                                            HasSubstr("tensor 'b' is in " + file("one"))));
}

TEST_F(ShardedCheckpoint, DamagedFileIsNamed) {
  directory_.write("one.safetensors", "abc");
  directory_.write("sub/two.safetensors", "");
  EXPECT_THAT(open_error(directory_),
              AllOf(HasSubstr("2 problems"), HasSubstr(file("one.safetensors") + ": has 3 bytes"),
                    HasSubstr(file("sub/two.safetensors") + ": is empty")));
}

TEST_F(ShardedCheckpoint, PathsThatLeaveTheDirectory) {
  for (const char* path :
       {"../one.safetensors", "/etc/passwd", "sub/../../x", "..", "", "sub/", "sub//../../x"}) {
    write_index({{"a", path}});
    EXPECT_THAT(open_error(directory_), HasSubstr("is not the name of a file in this directory"))
        << path;
  }
  write_index({{"a", std::string("one.safetensors\0x", 17)}});
  EXPECT_THAT(open_error(directory_), HasSubstr("is not the name of a file in this directory"));
}

TEST_F(ShardedCheckpoint, IndexOfTheWrongKind) {
  const char* const name = "model.safetensors.index.json";
  for (const char* text : {"", "{", "{\"weight_map\": {\"a\": \"x\", \"a\": \"y\"}}"}) {
    directory_.write(name, text);
    EXPECT_THAT(open_error(directory_), HasSubstr(file(name) + ": ")) << text;
  }
  for (const char* text : {"[]", "{}", "{\"weight_map\": []}"}) {
    directory_.write(name, text);
    EXPECT_THAT(open_error(directory_), HasSubstr("must have an object 'weight_map'")) << text;
  }
  write_index({{"a", 7}});
  EXPECT_THAT(open_error(directory_), HasSubstr("tensor 'a': must name a file, is 7"));
  write_index(json::object());
  EXPECT_THAT(open_error(directory_), HasSubstr("names no tensor"));
}

TEST_F(ShardedCheckpoint, ScanGoesOn) {
  directory_.write("one.safetensors", "abc");
  const CheckpointScan scan = scan_checkpoint(directory_.path());
  EXPECT_THAT(scan.problems, SizeIs(1));
  ASSERT_THAT(scan.files, SizeIs(1));
  EXPECT_EQ(scan.files[0].name, "sub/two.safetensors");
  EXPECT_TRUE(scan.source->contains("b"));
}

/// Bytes of the files of `directory` that this process has in memory.
size_t resident_bytes(const fs::path& directory) {
  std::ifstream maps("/proc/self/smaps");
  std::string line;
  bool inside = false;
  size_t total = 0;
  while (std::getline(maps, line)) {
    if (line.find('-') < line.find(' ') && line.find(':') > line.find(' ')) {
      inside = line.find(directory.string()) != std::string::npos;
    } else if (inside && line.starts_with("Rss:")) {
      total += std::stoull(line.substr(4)) << 10;
    }
  }
  return total;
}

TEST(Checkpoint, OnlyTheSliceIsTouched) {
  TemporaryDirectory directory;
  constexpr int64_t kRows = 4096;
  constexpr int64_t kCols = 4096;
  constexpr size_t kBytes = kRows * kCols * 2;
  directory.write("model.safetensors",
                  safetensors_bytes({{"a", DType::kBFloat16, {kRows, kCols}, ""}}));
  const auto source = open_checkpoint(directory.path());
  const TensorView whole = source->tensor("a");
  EXPECT_LT(resident_bytes(directory.path()), kBytes / 8);
  const TensorView slice = whole.row_range(kRows / 4, kRows / 2);
  source->will_need(slice);
  uint64_t sum = 0;
  for (int64_t r = 0; r < slice.rows; ++r) sum += slice.row<uint16_t>(r)[r];
  EXPECT_EQ(sum, uint64_t{0x0101} * kRows / 4);
  EXPECT_LT(resident_bytes(directory.path()), kBytes / 3);
  EXPECT_GE(resident_bytes(directory.path()), kBytes / 5);
  source->done_with(slice);
  EXPECT_LT(resident_bytes(directory.path()), kBytes / 8);
  EXPECT_EQ(slice.row<uint16_t>(5)[7], 0x0101) << "still there to be read";
}

TEST(ExpectedTensors, InOrderOfTheForwardPass) {
  std::string names;
  for (const TensorInfo& info : expected_tensors(small_config({{"num_hidden_layers", 1}}))) {
    names += info.name + " " + json(info.shape).dump() + "\n";
  }
  EXPECT_EQ(names,
            "model.embed_tokens.weight [100,32]\n"
            "model.layers.0.input_layernorm.weight [32]\n"
            "model.layers.0.self_attn.q_proj.weight [32,32]\n"
            "model.layers.0.self_attn.k_proj.weight [16,32]\n"
            "model.layers.0.self_attn.v_proj.weight [16,32]\n"
            "model.layers.0.self_attn.o_proj.weight [32,32]\n"
            "model.layers.0.post_attention_layernorm.weight [32]\n"
            "model.layers.0.mlp.gate_proj.weight [48,32]\n"
            "model.layers.0.mlp.up_proj.weight [48,32]\n"
            "model.layers.0.mlp.down_proj.weight [32,48]\n"
            "model.norm.weight [32]\n"
            "lm_head.weight [100,32]\n");
}

TEST(ExpectedTensors, AddUpToTheParameterCount) {
  for (const std::string& name : golden_model_names(kModels)) {
    const ModelConfig config = ModelConfig::load(kModels / name);
    int64_t count = 0;
    for (const TensorInfo& info : expected_tensors(config)) {
      int64_t elements = 1;
      for (const int64_t extent : info.shape) elements *= extent;
      count += elements;
    }
    EXPECT_EQ(count, config.parameter_count()) << name;
  }
}

/// A source that is only a list.
class ListSource : public TensorSource {
 public:
  explicit ListSource(std::vector<TensorInfo> infos) : infos_(std::move(infos)) {
    for (TensorInfo& info : infos_) info.file = "a file";
  }
  std::vector<TensorInfo> list() const override { return infos_; }
  bool contains(const std::string&) const override { return false; }
  TensorView tensor(const std::string&) const override { return {}; }

 private:
  std::vector<TensorInfo> infos_;
};

TEST(CheckTensors, WhatIsWrongIsNamed) {
  const ModelConfig config = small_config();
  const std::vector<TensorInfo> good = expected_tensors(config);
  const auto error_with = [&](const std::function<void(std::vector<TensorInfo>&)>& change) {
    std::vector<TensorInfo> infos = good;
    change(infos);
    return error_of([&] { check_tensors(config, ListSource(infos)); });
  };
  EXPECT_EQ(error_with([](auto&) {}), "no error");
  EXPECT_EQ(error_with([](auto& infos) { std::reverse(infos.begin(), infos.end()); }), "no error");
  EXPECT_THAT(error_with([](auto& infos) { infos.erase(infos.begin() + 2); }),
              HasSubstr("tensor 'model.layers.0.self_attn.q_proj.weight' is missing"));
  EXPECT_THAT(error_with([](auto& infos) {
                infos[2].shape = {32, 31};
              }),
              HasSubstr("a file: tensor 'model.layers.0.self_attn.q_proj.weight' has shape "
                        "[32, 31]; config.json asks for [32, 32]"));
  EXPECT_THAT(error_with([](auto& infos) {
                infos[1].shape = {1, 32};
              }),
              HasSubstr("has shape [1, 32]; config.json asks for [32]"));
  EXPECT_THAT(error_with([](auto& infos) { infos[1].dtype = DType::kInt64; }),
              HasSubstr("has dtype int64; weights must be"));
  EXPECT_EQ(error_with([](auto& infos) { infos[1].dtype = DType::kFloat32; }), "no error");
  const auto add = [](const char* name) {
    return [name](auto& infos) { infos.push_back({name, DType::kFloat32, {4}, ""}); };
  };
  EXPECT_THAT(error_with(add("model.layers.0.self_attn.q_proj.bias")),
              HasSubstr("a file: tensor 'model.layers.0.self_attn.q_proj.bias' is surplus"));
  EXPECT_THAT(error_with(add("model.layers.2.input_layernorm.weight")), HasSubstr("is surplus"));
  EXPECT_EQ(error_with(add("model.layers.0.self_attn.rotary_emb.inv_freq")), "no error");
  EXPECT_THAT(error_with([](auto& infos) { infos.clear(); }),
              AllOf(HasSubstr("21 problems"), HasSubstr("and 13 more")));
}

TEST(CheckTensors, HeadOfATiedModelIsLetPass) {
  const ModelConfig tied = small_config({{"tie_word_embeddings", true}});
  EXPECT_EQ(expected_tensors(tied).size(), expected_tensors(small_config()).size() - 1);
  const ListSource with_head(expected_tensors(small_config()));
  EXPECT_EQ(error_of([&] { check_tensors(tied, with_head); }), "no error");
  const ListSource without_head(expected_tensors(tied));
  EXPECT_THAT(error_of([&] { check_tensors(small_config(), without_head); }),
              HasSubstr("tensor 'lm_head.weight' is missing"));
}

struct Moments {
  double mean = 0, deviation = 0;
};

Moments moments_of(const TensorView& view) {
  double sum = 0, squares = 0;
  for (int64_t r = 0; r < view.rows; ++r) {
    for (int64_t c = 0; c < view.cols; ++c) {
      const double value = to_float(view, r, c);
      sum += value;
      squares += value * value;
    }
  }
  const auto count = static_cast<double>(view.rows * view.cols);
  return {sum / count, std::sqrt(squares / count - sum * sum / (count * count))};
}

TEST(DummySource, NumbersAreAsPromisedInEveryDType) {
  for (const char* dtype : {"float32", "bfloat16", "float16"}) {
    const ModelConfig config = small_config({{"torch_dtype", dtype},
                                             {"hidden_size", 1024},
                                             {"intermediate_size", 640},
                                             {"attention_bias", true}});
    const DummySource source(config);
    EXPECT_EQ(error_of([&] { check_tensors(config, source); }), "no error");
    const Moments down = moments_of(source.tensor("model.layers.1.mlp.down_proj.weight"));
    EXPECT_NEAR(down.mean, 0.0, 3e-4);
    EXPECT_NEAR(down.deviation * std::sqrt(640.0), 1.0, 0.01);
    const Moments norm = moments_of(source.tensor("model.norm.weight"));
    EXPECT_NEAR(norm.mean, 1.0, 0.01);
    EXPECT_GT(norm.deviation, 0.01);
    const Moments bias = moments_of(source.tensor("model.layers.0.self_attn.q_proj.bias"));
    EXPECT_NEAR(bias.mean, 0.0, 0.01);
    EXPECT_NEAR(bias.deviation, 0.02, 0.005);
  }
}

uint64_t fingerprint(const TensorView& view) {
  uint64_t hash = 0;
  const size_t bytes = static_cast<size_t>(view.cols) * dtype_size(view.dtype);
  for (int64_t r = 0; r < view.rows; ++r) {
    const auto* row = view.row<unsigned char>(r);
    for (size_t i = 0; i < bytes; ++i) hash = hash * 0x100000001b3u + row[i] + 1;
  }
  return hash;
}

TEST(DummySource, SameNumbersForNameAndSeed) {
  const ModelConfig config = small_config();
  const DummySource one(config, 7);
  const DummySource two(config, 7);
  const DummySource other(config, 8);
  const char* const q = "model.layers.0.self_attn.q_proj.weight";
  const char* const o = "model.layers.0.self_attn.o_proj.weight";
  const uint64_t expected = fingerprint(one.tensor(q));
  two.tensor(o);  // asked in another order
  EXPECT_EQ(fingerprint(two.tensor(q)), expected);
  EXPECT_NE(fingerprint(one.tensor(o)), expected);
  EXPECT_NE(fingerprint(other.tensor(q)), expected);
  EXPECT_EQ(one.tensor(q).data, one.tensor(q).data) << "made once";
  one.release();
  EXPECT_EQ(fingerprint(one.tensor(q)), expected);
  EXPECT_THAT(error_of([&] { one.tensor("other"); }), HasSubstr("tensor 'other' is missing"));
  EXPECT_FALSE(one.contains("other"));
  EXPECT_TRUE(one.contains(q));
}

// The numbers of the first version that had them, at odd lengths: benchmarks of different versions
// and machines compute with the same weights.
TEST(DummySource, NumbersStayWhatTheyWere) {
  struct Case {
    DType dtype;
    uint64_t matrix, vector, large;
  };
  for (const Case& c :
       {Case{DType::kFloat32, 0x38ae711d03b6f52d, 0xf38d8d16266773e4, 0x21f7def1391107ef},
        Case{DType::kBFloat16, 0x011879d12f027b9c, 0x985c7c9ec3c423c5, 0xc984f0f8c5bad8d7},
        Case{DType::kFloat16, 0x173b89965577bd57, 0x3278972b7e43b64e, 0x741e6aeebef8d128},
        Case{DType::kFloat8E4M3, 0x18c8b3a74208a4c5, 0x069749c5ad90190d, 0x3e1abbf8400b4cf0}}) {
    SCOPED_TRACE(dtype_name(c.dtype));
    const DummySource source({{"a.weight", c.dtype, {37, 75}, ""}, {"b.bias", c.dtype, {33}, ""}},
                             5);
    EXPECT_EQ(fingerprint(source.tensor("a.weight")), c.matrix);
    EXPECT_EQ(fingerprint(source.tensor("b.bias")), c.vector);
    const DummySource large({{"a.weight", c.dtype, {64, 4096}, ""}}, 5);
    EXPECT_EQ(fingerprint(large.tensor("a.weight")), c.large);
  }
}

TEST(DummySource, ThreadsGetOneTensor) {
  const DummySource source(small_config({{"hidden_size", 512}}));
  std::vector<void*> seen(8);
  std::vector<std::thread> threads;
  for (void*& data : seen) {
    threads.emplace_back([&] { data = source.tensor("model.embed_tokens.weight").data; });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(seen, testing::Each(seen.front()));
}

}  // namespace
}  // namespace convoke
