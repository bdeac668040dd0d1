#include "runtime/model_files/torch_archive.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <functional>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>
#include <thread>

#include "tests/support/model_directory.h"
#include "tests/support/torch_file.h"

namespace convoke {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using testing::AllOf;
using testing::HasSubstr;
using testing::SizeIs;

const fs::path kFiles = fs::path(CONVOKE_SOURCE_DIR) / "tests/golden/torch_files";

std::string read_bytes(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
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

/// Opens an exact copy, so that the address sanitizer sees a read past the end, and reads every
/// tensor.
std::string error_of_bytes(const std::string& bytes) {
  const std::vector<char> copy(bytes.begin(), bytes.end());
  return error_of([&] {
    const auto source = open_torch_bytes(std::as_bytes(std::span(copy)), "file");
    for (const TensorInfo& info : source->list()) {
      const TensorView view = source->tensor(info.name);
      volatile char seen = 0;
      for (int64_t i = 0; i < view.rows * view.cols * int64_t(dtype_size(view.dtype)); ++i) {
        seen = static_cast<const char*>(view.data)[i];
      }
      (void)seen;
    }
  });
}

std::string hex(const TensorView& view) {
  std::string text;
  EXPECT_EQ(view.row_stride, view.cols);
  const auto* bytes = static_cast<const unsigned char*>(view.data);
  const auto count = static_cast<size_t>(view.rows * view.cols) * dtype_size(view.dtype);
  for (size_t i = 0; i < count; ++i) text += fmt::format("{:02x}", bytes[i]);
  return text;
}

/// The files that load, by name.
std::vector<std::string> golden_files() {
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(kFiles)) {
    const std::string name = entry.path().filename();
    if (name.ends_with(".pt") && !name.starts_with("legacy")) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

void expect_content(const TensorSource& source, const json& expected, const std::string& what) {
  EXPECT_THAT(source.list(), SizeIs(expected.size())) << what;
  for (const TensorInfo& info : source.list()) {
    ASSERT_TRUE(expected.contains(info.name)) << what << ": " << info.name;
    const json& tensor = expected[info.name];
    EXPECT_EQ(dtype_name(info.dtype), tensor["dtype"].get<std::string>()) << info.name;
    EXPECT_EQ(info.shape, tensor["shape"].get<std::vector<int64_t>>()) << info.name;
    EXPECT_TRUE(source.contains(info.name));
    const TensorView view = source.tensor(info.name);
    EXPECT_EQ(view.dtype, info.dtype);
    EXPECT_EQ(hex(view), tensor["bytes"].get<std::string>()) << what << ": " << info.name;
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % dtype_size(view.dtype), 0u);
    EXPECT_EQ(source.tensor(info.name).data, view.data) << "made once";
    source.will_need(view);  // hints about anything are harmless
    source.done_with(view);
    EXPECT_EQ(hex(view), tensor["bytes"].get<std::string>()) << what << ": " << info.name;
  }
}

TEST(TorchArchive, EveryFileOfEveryVersionHoldsWhatPyTorchPutThere) {
  const std::vector<std::string> names = golden_files();
  EXPECT_THAT(names, SizeIs(9));
  for (const std::string& name : names) {
    const json expected = json::parse(read_bytes(kFiles / (name + ".json")));
    expect_content(*open_torch_file(kFiles / name), expected, name);
    const std::string bytes = read_bytes(kFiles / name);
    expect_content(*open_torch_bytes(std::as_bytes(std::span(bytes)), name), expected, name);
  }
}

TEST(TorchArchive, ContiguousTensorsAreViewsOfTheFile) {
  for (const char* version : {"1.6", "1.12", "2.15"}) {
    const std::string bytes = read_bytes(kFiles / (std::string("kinds-") + version + ".pt"));
    const auto file = std::as_bytes(std::span(bytes));
    const auto source = open_torch_bytes(file, "file");
    const std::set<std::string> copied = {"tied.transposed", "cube.slice",
                                          "cube.permuted",   "cube.one",
                                          "bool.transposed", "empty"};  // has no place of its own
    for (const TensorInfo& info : source->list()) {
      const auto* data = static_cast<const std::byte*>(source->tensor(info.name).data);
      const bool inside = data >= file.data() && data <= file.data() + file.size();
      EXPECT_EQ(inside, copied.count(info.name) == 0) << version << ": " << info.name;
    }
    EXPECT_EQ(source->tensor("tied").data, source->tensor("tied.too").data);
  }
}

TEST(TorchArchive, NamesOfWhatIsWrong) {
  const auto source = open_torch_file(kFiles / "eagle3-2.15.pt");
  EXPECT_FALSE(source->contains("other"));
  EXPECT_THAT(error_of([&] { source->tensor("other"); }),
              AllOf(HasSubstr("eagle3-2.15.pt"), HasSubstr("tensor 'other' is missing")));
  EXPECT_THAT(source->describe(), HasSubstr("eagle3-2.15.pt"));
  EXPECT_THAT(source->list().front().file, HasSubstr("eagle3-2.15.pt"));
  EXPECT_THAT(error_of([&] { open_torch_file(kFiles / "none.pt"); }), HasSubstr("none.pt"));
  EXPECT_THAT(error_of([&] { open_torch_file(kFiles); }), HasSubstr("not a regular file"));
}

TEST(TorchArchive, TablesOfADrafter) {
  for (const char* name : {"eagle3-2.15.pt", "deflated-2.15.pt"}) {
    const auto source = open_torch_file(kFiles / name);
    EXPECT_THAT(int64_values(*source, "d2t"), testing::ElementsAre(0, 3, 3, 700000000000));
    EXPECT_THAT(bool_values(*source, "t2d"), testing::ElementsAre(true, false, false, true, false));
    EXPECT_THAT(error_of([&] { int64_values(*source, "t2d"); }),
                HasSubstr("tensor 't2d' has dtype bool; it must be int64"));
    EXPECT_THAT(error_of([&] { bool_values(*source, "d2t"); }), HasSubstr("it must be bool"));
    EXPECT_THAT(error_of([&] { bool_values(*source, "none"); }), HasSubstr("'none' is missing"));
  }
}

TEST(TorchArchive, ThreadsGetOneCopy) {
  const auto source = open_torch_file(kFiles / "deflated-2.15.pt");
  const auto strided = open_torch_file(kFiles / "kinds-2.15.pt");
  std::vector<const void*> seen(8);
  std::vector<const void*> gathered(8);
  std::vector<std::thread> threads;
  for (size_t i = 0; i < seen.size(); ++i) {
    threads.emplace_back([&, i] {
      seen[i] = source->tensor("fc.weight").data;
      gathered[i] = strided->tensor("cube.permuted").data;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(seen, testing::Each(seen.front()));
  EXPECT_THAT(gathered, testing::Each(gathered.front()));
}

TEST(TorchArchive, OtherFilesAreRefusedWithWhatTheyAre) {
  EXPECT_THAT(error_of([&] { open_torch_file(kFiles / "legacy-2.15.pt"); }),
              AllOf(HasSubstr("legacy-2.15.pt: was written by PyTorch before 1.6"),
                    HasSubstr("save it again")));
  EXPECT_THAT(error_of_bytes("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"),
              HasSubstr("Git LFS pointer"));
  EXPECT_THAT(error_of_bytes("GGUF"), HasSubstr("not a file of torch.save"));
  EXPECT_THAT(error_of_bytes(""), HasSubstr("not a file of torch.save"));
  EXPECT_THAT(error_of_bytes("PK\3\4"), HasSubstr("not a whole zip archive"));
  EXPECT_THAT(error_of_bytes(zip_bytes({{"archive/other", "x"}})),
              HasSubstr("it has no entry FOLDER/data.pkl"));
  EXPECT_THAT(error_of_bytes(zip_bytes({{"data.pkl", "x"}})),
              HasSubstr("no entry FOLDER/data.pkl"));
  EXPECT_THAT(error_of_bytes(zip_bytes({{"a/data.pkl", "x"}, {"b/data.pkl", "x"}})),
              HasSubstr("has both \"a/data.pkl\" and \"b/data.pkl\""));
}

std::vector<ZipEntry> small_archive(int64_t elements = 6, size_t bytes = 24) {
  const std::string tensor =
      pickle::tensor(pickle::storage("FloatStorage", "0", elements), 0, {2, 3}, {3, 1});
  return {{"x/data.pkl", pickle::whole(pickle::dict({pickle::text("w"), tensor}))},
          {"x/data/0", std::string(bytes, '\1')}};
}

std::string with_entry(const std::string& name, const std::string& data) {
  auto entries = small_archive();
  entries.push_back({name, data});
  return error_of_bytes(zip_bytes(entries));
}

TEST(TorchArchive, HandMadeArchivesAnd64BitRecords) {
  EXPECT_EQ(error_of_bytes(zip_bytes(small_archive())), "no error");
  EXPECT_EQ(error_of_bytes(zip_bytes(small_archive(), {.zip64 = true})), "no error");
  const std::string bytes = zip_bytes(small_archive(), {.zip64 = true});
  const auto source = open_torch_bytes(std::as_bytes(std::span(bytes)), "file");
  EXPECT_EQ(hex(source->tensor("w")).substr(0, 8), "01010101");
}

TEST(TorchArchive, MisalignedStoragesAreCopied) {
  std::set<uintptr_t> remainders;
  for (size_t shift = 0; shift < 4; ++shift) {
    auto entries = small_archive();
    entries.insert(entries.begin(), {"x/" + std::string(shift, '_') + "a", ""});
    const std::string bytes = zip_bytes(entries);
    const auto source = open_torch_bytes(std::as_bytes(std::span(bytes)), "file");
    const TensorView view = source->tensor("w");
    EXPECT_EQ(reinterpret_cast<uintptr_t>(view.data) % 4, 0u);
    EXPECT_EQ(hex(view), std::string(24, '0').replace(0, 24, "010101010101010101010101") +
                             "010101010101010101010101");
    remainders.insert(bytes.find(std::string(24, '\1')) % 4);
  }
  EXPECT_GT(remainders.size(), 1u);
}

TEST(TorchArchive, VersionAndByteOrder) {
  EXPECT_EQ(with_entry("x/version", "3\n"), "no error");
  EXPECT_EQ(with_entry("x/version", "10"), "no error");
  EXPECT_THAT(with_entry("x/version", "11\n"), HasSubstr("format version \"11\" is not supported"));
  for (const char* version : {"", "0", "-1", "3x", "99999999999999999999"}) {
    EXPECT_THAT(with_entry("x/version", version), HasSubstr("is not supported")) << version;
  }
  EXPECT_THAT(with_entry("x/version", std::string(65, '3')), HasSubstr("x/version has 65 bytes"));
  EXPECT_EQ(with_entry("x/byteorder", "little"), "no error");
  EXPECT_THAT(with_entry("x/byteorder", "big"), HasSubstr("byte order \"big\" is not supported"));
  EXPECT_EQ(with_entry("x/.data/serialization_id", "7"), "no error");
}

TEST(TorchArchive, StoragesThatDoNotFit) {
  EXPECT_THAT(error_of_bytes(zip_bytes(small_archive(6, 23))),
              HasSubstr("tensor \"w\": its storage \"x/data/0\" has 23 bytes, but 6 elements of "
                        "float32 are said"));
  EXPECT_THAT(error_of_bytes(zip_bytes(small_archive(6, 25))), HasSubstr("has 25 bytes"));
  EXPECT_THAT(error_of_bytes(zip_bytes(small_archive(INT64_MAX, 24))), HasSubstr("has 24 bytes"));
  EXPECT_THAT(error_of_bytes(zip_bytes(small_archive((int64_t{1} << 62) + 6, 24))),
              HasSubstr("has 24 bytes"));
  auto entries = small_archive();
  entries.pop_back();
  EXPECT_THAT(error_of_bytes(zip_bytes(entries)),
              HasSubstr("tensor \"w\": its storage x/data/\"0\" is missing"));
}

TEST(TorchArchive, EntriesThatLie) {
  EXPECT_THAT(with_entry("x/data/0", "again"), HasSubstr("\"x/data/0\": is there twice"));
  const std::string good = zip_bytes(small_archive());
  const auto damaged = [&](size_t at, const std::string& bytes) {
    std::string copy = good;
    return error_of_bytes(copy.replace(at, bytes.size(), bytes));
  };
  const size_t directory = good.rfind("PK\1\2");  // of the storage
  ASSERT_NE(directory, std::string::npos);
  // Sizes that the file cannot have, on one side or both.
  EXPECT_THAT(damaged(directory + 24, little_endian(1 << 30, 4)),
              HasSubstr("claims 1073741824 bytes, which its 24 bytes in the file cannot hold"));
  EXPECT_THAT(damaged(directory + 20, little_endian(1 << 30, 4) + little_endian(1 << 30, 4)),
              HasSubstr("claims 1073741824 bytes of a file of"));
  const uint64_t all = good.size();
  EXPECT_NE(damaged(directory + 20, little_endian(all, 4) + little_endian(all, 4)), "no error");
  EXPECT_THAT(damaged(directory + 10, little_endian(12, 2)),
              HasSubstr("compression method 12 is not supported"));
  EXPECT_NE(damaged(directory + 8, little_endian(1, 2)), "no error") << "encrypted";
  EXPECT_NE(damaged(directory + 42, little_endian(0xfffffff0, 4)), "no error") << "offset";
  // Data that is not what was written.
  const size_t pickle = good.find("storage");
  EXPECT_THAT(damaged(pickle, "Storage"), HasSubstr("data.pkl"));
  EXPECT_THAT(damaged(pickle, "Storage"), HasSubstr("CRC"));
}

TEST(TorchArchive, CompressedSizesAreBounded) {
  const std::string packed = read_bytes(kFiles / "deflated-2.15.pt");
  const size_t directory = packed.find("PK\1\2");
  std::string huge = packed;
  huge.replace(directory + 24, 4, little_endian(0xfffffffe, 4));
  EXPECT_THAT(error_of_bytes(huge), HasSubstr("claims 4294967294 bytes"));
  std::string shorter = packed;
  shorter.replace(directory + 24, 4, little_endian(10, 4));
  EXPECT_NE(error_of_bytes(shorter), "no error");
}

TEST(TorchArchive, EveryTruncationIsAnError) {
  for (const char* name : {"eagle3-2.15.pt", "deflated-2.15.pt", "wrapped-1.6.pt"}) {
    const std::string bytes = read_bytes(kFiles / name);
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_NE(error_of_bytes(bytes.substr(0, size)), "no error") << name << " " << size;
    }
  }
}

TEST(TorchArchive, EveryFlippedByteIsAnErrorOrHarmless) {
  for (const char* name : {"eagle3-2.15.pt", "deflated-2.15.pt", "wrapped-1.6.pt"}) {
    const std::string bytes = read_bytes(kFiles / name);
    for (size_t at = 0; at < bytes.size(); ++at) {
      std::string copy = bytes;
      copy[at] = static_cast<char>(copy[at] ^ (1 << (at % 8)));
      (void)error_of_bytes(copy);  // ends in an Error or in tensors, which are read to their ends
    }
  }
}

TEST(TorchArchive, FuzzCorpusIsRefused) {
  const fs::path corpus = fs::path(CONVOKE_SOURCE_DIR) / "tests/fuzz/corpus/torch_pickle";
  EXPECT_THAT(error_of_bytes(read_bytes(corpus / "system.pt")),
              AllOf(HasSubstr("global \"system\" of module \"posix\" is refused"),
                    HasSubstr("nothing was executed")));
}

}  // namespace
}  // namespace convoke
