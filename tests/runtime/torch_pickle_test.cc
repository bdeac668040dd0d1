#include "runtime/model_files/torch_pickle.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>

#include "kernels/check.h"
#include "tests/support/torch_file.h"

namespace convoke {
namespace {

using namespace pickle;  // NOLINT: the pieces of this file's pickles
using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::SizeIs;

const std::string kOrderedDict = call(global("collections", "OrderedDict"), {});
const std::string kStorage = storage("FloatStorage", "0", 12);
const std::string kTensor = tensor(kStorage, 0, {3, 4}, {4, 1});

TorchPickle parse(const std::string& bytes) {
  // An exact copy, so that the address sanitizer sees a read past the end.
  const std::vector<char> copy(bytes.begin(), bytes.end());
  return parse_torch_pickle(std::as_bytes(std::span(copy)), "file");
}

std::string error_of(const std::string& bytes) {
  try {
    parse(bytes);
  } catch (const Error& error) {
    EXPECT_EQ(error.kind(), ErrorKind::kModel);
    EXPECT_THAT(error.what(), testing::StartsWith("file: "));
    EXPECT_LT(std::string(error.what()).size(), 600u);
    return error.what();
  }
  return "no error";
}

/// Of a pickle whose pieces these are.
std::string error_in(const std::string& pieces, int protocol = 2) {
  return error_of(whole(pieces, protocol));
}

std::string named(const std::string& value) {
  return dict({text("w"), value});
}

TEST(TorchPickle, OneTensor) {
  const TorchPickle parsed = parse(whole(named(tensor(kStorage, 1, {2, 1, 3}, {5, 9, 2}))));
  ASSERT_THAT(parsed.tensors, SizeIs(1));
  ASSERT_THAT(parsed.storages, SizeIs(1));
  EXPECT_EQ(parsed.storages[0].key, "0");
  EXPECT_EQ(parsed.storages[0].dtype, DType::kFloat32);
  EXPECT_EQ(parsed.storages[0].elements, 12u);
  EXPECT_EQ(parsed.tensors[0].name, "w");
  EXPECT_EQ(parsed.tensors[0].offset, 1u);
  EXPECT_THAT(parsed.tensors[0].shape, ElementsAre(2, 1, 3));
  EXPECT_THAT(parsed.tensors[0].strides, ElementsAre(5, 9, 2));
  EXPECT_EQ(parsed.tensors[0].elements(), 6u);
}

TEST(TorchPickle, Contiguity) {
  const auto contiguous = [](std::vector<int64_t> shape, std::vector<int64_t> strides) {
    return TorchTensor{"", 0, 0, std::move(shape), std::move(strides)}.contiguous();
  };
  EXPECT_TRUE(contiguous({}, {}));
  EXPECT_TRUE(contiguous({3, 4}, {4, 1}));
  EXPECT_FALSE(contiguous({3, 4}, {1, 3}));
  EXPECT_FALSE(contiguous({3, 4}, {5, 1}));
  EXPECT_TRUE(contiguous({3, 1, 4}, {4, 77, 1}));
  EXPECT_TRUE(contiguous({1, 1}, {9, 9}));
  EXPECT_TRUE(contiguous({0, 4}, {9, 9}));
  EXPECT_FALSE(contiguous({2}, {2}));
}

TEST(TorchPickle, EmptyDictionaries) {
  for (int protocol = 2; protocol <= 5; ++protocol) {
    EXPECT_THAT(parse(whole("}", protocol)).tensors, IsEmpty());
    EXPECT_THAT(parse(whole(kOrderedDict, protocol)).tensors, IsEmpty());
  }
}

TEST(TorchPickle, OldFormsAndSizes) {
  const std::string rebuilt = call(global("torch._utils", "_rebuild_tensor"),
                                   {kStorage, integer(0), integers({2}), integers({1})});
  EXPECT_THAT(parse(whole(named(rebuilt))).tensors, SizeIs(1));
  const std::string size = call(global("torch", "Size"), {integers({2, 3})});
  const std::string sized = call(global("torch._utils", "_rebuild_tensor_v2"),
                                 {kStorage, integer(0), size, integers({3, 1}), "\x88", "N"});
  EXPECT_THAT(parse(whole(named(sized))).tensors[0].shape, ElementsAre(2, 3));
  const std::string with_metadata =
      call(global("torch._utils", "_rebuild_tensor_v2"),
           {kStorage, integer(0), integers({2}), integers({1}), "\x89", kOrderedDict, "}"});
  EXPECT_EQ(error_in(named(with_metadata)), "no error");
  // Texts as Python 2 wrote them, a list that is built up, numbers of every length.
  EXPECT_EQ(error_in("}(U\1w" + kTensor + "u"), "no error");
  EXPECT_EQ(error_in("}(T\1" + std::string(3, '\0') + "w" + kTensor + "u"), "no error");
  const std::string beside =
      dict({text("state_dict"), named(kTensor), text("a"), "J\xff\xff\xff\xff", text("b"), "M\1\2",
            text("c"), "\x8a" + std::string(1, '\0'), text("d"), "G12345678", text("e"), "N"});
  EXPECT_EQ(error_in(beside), "no error");
}

TEST(TorchPickle, NegativeLongs) {
  EXPECT_THAT(error_in("\x8a\1\xff"), HasSubstr("holds the integer -1"));
  EXPECT_THAT(error_in(std::string("\x8a\2\x00\x80", 4)), HasSubstr("the integer -32768"));
  EXPECT_THAT(error_in(std::string("\x8a\2\xff\x00", 4)), HasSubstr("the integer 255"));
  EXPECT_THAT(error_in(integer(INT64_MIN)), HasSubstr("the integer -9223372036854775808"));
  EXPECT_THAT(error_in("J\xfe\xff\xff\xff"), HasSubstr("the integer -2"));
}

TEST(TorchPickle, Wrappers) {
  for (const char* key : {"state_dict", "model", "module"}) {
    EXPECT_THAT(parse(whole(dict({text(key), named(kTensor)}))).tensors, SizeIs(1)) << key;
  }
  EXPECT_THAT(parse(whole(dict({text("model"), kTensor}))).tensors[0].name, "model")
      << "a tensor may have that name";
  EXPECT_THAT(error_in(dict({text("model"), named(kTensor), text("module"), named(kTensor)})),
              HasSubstr("has both 'model' and 'module'"));
  EXPECT_THAT(error_in(dict({text("state_dict"), named(kTensor), text("optimizer"), "}"})),
              AllOf(HasSubstr("beside 'state_dict' lies a dictionary of 0 under \"optimizer\""),
                    HasSubstr("torch.save(x['state_dict'], file)")));
  EXPECT_THAT(error_in(dict({text("state_dict"), named(kTensor), text("w"), kTensor})),
              HasSubstr("beside 'state_dict' lies a tensor under \"w\""));
  EXPECT_THAT(error_in(dict({text("state_dict"), dict({text("model"), named(kTensor)})})),
              HasSubstr("\"model\" is a dictionary of 1, not a tensor"));
  EXPECT_THAT(error_in(dict({text("weights"), named(kTensor)})),
              HasSubstr("\"weights\" is a dictionary of 1, not a tensor"));
}

TEST(TorchPickle, WhatIsNoDictionaryOfTensors) {
  EXPECT_THAT(error_in("N"), HasSubstr("holds None, not a dictionary of tensors"));
  EXPECT_THAT(error_in("]"), HasSubstr("holds a list of 0"));
  EXPECT_THAT(error_in(kTensor), HasSubstr("holds a tensor"));
  EXPECT_THAT(error_in(global("collections", "OrderedDict")),
              HasSubstr("holds collections.OrderedDict"));
  EXPECT_THAT(error_in(named("N")), HasSubstr("\"w\" is None, not a tensor"));
  EXPECT_THAT(error_in(named(kStorage)), HasSubstr("\"w\" is a storage"));
  EXPECT_THAT(error_in(named(global("torch", "LongStorage"))), HasSubstr("torch.LongStorage"));
  EXPECT_THAT(error_in("}" + integer(1) + kTensor + "s"),
              HasSubstr("a dictionary key is the integer 1"));
  EXPECT_THAT(error_in("}(" + text("w") + kTensor + text("x") + "u"), HasSubstr("has no value"));
  EXPECT_THAT(error_in(dict({text("w"), kTensor, text("w"), kTensor})),
              HasSubstr("tensor \"w\": is there twice"));
  EXPECT_THAT(error_in("}" + text("w") + kTensor + "s" + text("w") + kTensor + "s"),
              HasSubstr("tensor \"w\": is there twice"));
}

TEST(TorchPickle, GlobalsThatAreRefused) {
  const auto refused = [](const std::string& module, const std::string& name) {
    return AllOf(HasSubstr("global \"" + name + "\" of module \"" + module + "\" is refused"),
                 HasSubstr("nothing was executed"));
  };
  const std::string stack_global = text("os") + text("system") + "\x93";
  EXPECT_THAT(error_in(global("os", "system")), refused("os", "system"));
  EXPECT_THAT(error_in(named(call(global("os", "system"), {text("true")}))),
              refused("os", "system"));
  EXPECT_THAT(error_in(call(stack_global, {text("true")}), 4), refused("os", "system"));
  EXPECT_THAT(error_in("(" + text("true") + "ios\nsystem\n"), refused("os", "system"));
  EXPECT_THAT(error_in("(" + global("os", "system") + text("true") + "o"), refused("os", "system"));
  EXPECT_THAT(error_in(global("os", "system") + ")\x81"), refused("os", "system"));
  for (const auto& [module, name] : std::vector<std::pair<std::string, std::string>>{
           {"builtins", "eval"},
           {"__builtin__", "getattr"},
           {"torch", "load"},
           {"torch", "FloatTensor"},
           {"torch", "floatStorage"},
           {"torch", ""},
           {"", "OrderedDict"},
           {"torch.cuda", "FloatStorage"},
           {"torch.storage", "_load_from_bytes"},
           {"torch.storage", "UntypedStorage"},
           {"torch._utils", "_rebuild_device_tensor_from_numpy"},
           {"torch._utils", "_rebuild_tensor_v3"},
           {"torch._utils", "_rebuild_parameter_with_state"},
           {"collections", "OrderedDict.__class__"},
           {"collections.OrderedDict", "__init__"}}) {
    EXPECT_THAT(error_in(global(module, name)), refused(module, name));
    EXPECT_THAT(error_in(text(module) + text(name) + "\x93", 4), refused(module, name));
  }
  EXPECT_THAT(error_in(global("torch.storage", "_load_from_bytes")),
              HasSubstr("it would unpickle once more"));
  EXPECT_THAT(error_in("cos\nsystem"), HasSubstr("a name does not end"));
  EXPECT_THAT(error_in("c" + std::string(1000, 'a')), HasSubstr("does not end within 256 bytes"));
  EXPECT_THAT(error_in(global("\xff", "\xfe")), HasSubstr("is refused"));
  EXPECT_THAT(error_in(integer(1) + text("a") + "\x93"), HasSubstr("the module of a global is"));
}

TEST(TorchPickle, OpcodesThatAreRefused) {
  const std::string known = global("collections", "OrderedDict");
  EXPECT_THAT(error_in("(" + known + "o"), HasSubstr("opcode OBJ is refused"));
  EXPECT_THAT(error_in(known + ")\x81"), HasSubstr("opcode NEWOBJ is refused"));
  EXPECT_THAT(error_in(known + ")}\x92"), HasSubstr("opcode NEWOBJ_EX is refused"));
  EXPECT_THAT(error_in("\x82\1"), HasSubstr("opcode EXT1 is refused"));
  EXPECT_THAT(error_in("P1\n"), HasSubstr("opcode PERSID is refused"));
  EXPECT_THAT(error_in("B" + little_endian(0, 4)), HasSubstr("opcode BINBYTES is refused"));
  EXPECT_THAT(error_in("\x97"), HasSubstr("opcode NEXT_BUFFER is refused"));
  EXPECT_THAT(error_in("\x96" + little_endian(~uint64_t{0}, 8)), HasSubstr("BYTEARRAY8"));
  EXPECT_THAT(error_in("\xff"), HasSubstr("0xff is no opcode"));
  EXPECT_THAT(error_in("\x80\2"), HasSubstr("0x80 is no opcode that may stand here"));
  // Whatever the opcode: an error or a pickle that ends otherwise than with one dictionary.
  for (int opcode = 0; opcode < 256; ++opcode) {
    if (opcode == '}') continue;
    EXPECT_NE(error_in(std::string(1, static_cast<char>(opcode))), "no error") << opcode;
  }
}

TEST(TorchPickle, CallsOfOtherThings) {
  EXPECT_THAT(error_in(call(text("os.system"), {})),
              HasSubstr("the text \"os.system\" cannot be called"));
  EXPECT_THAT(error_in(call(global("torch", "FloatStorage"), {integer(1)})),
              HasSubstr("torch.FloatStorage cannot be called"));
  EXPECT_THAT(error_in(call(global("collections", "OrderedDict"), {"]"})),
              HasSubstr("OrderedDict is called with 1 arguments"));
  EXPECT_THAT(error_in(global("collections", "OrderedDict") + "}R"),
              HasSubstr("the arguments of a call is a dictionary"));
  EXPECT_THAT(error_in(call(global("torch", "Size"), {})), HasSubstr("called with 0 arguments"));
  EXPECT_THAT(error_in(call(global("torch", "Size"), {"]"})), HasSubstr("is a list of 0"));
  const std::string v2 = global("torch._utils", "_rebuild_tensor_v2");
  EXPECT_THAT(error_in(call(v2, {})), HasSubstr("a tensor is made of 0 parts, not of 6 to 7"));
  EXPECT_THAT(error_in(call(v2, {"N", "N", "N", "N", "N", "N"})),
              HasSubstr("a tensor's storage is None"));
  EXPECT_THAT(error_in(call(v2, {kStorage, "N", "N", "N", "N", "N"})),
              HasSubstr("a tensor's offset is None"));
  EXPECT_THAT(error_in(call(v2, {kStorage, integer(0), "]", ")", "\x88", "N"})),
              HasSubstr("a tensor's size is a list"));
  EXPECT_THAT(error_in(call(v2, {kStorage, integer(0), ")", ")", integer(1), "N"})),
              HasSubstr("a tensor's requires_grad is the integer 1"));
  const std::string negated = dict({text("neg"), "\x88"});
  EXPECT_THAT(error_in(call(v2, {kStorage, integer(0), ")", ")", "\x88", "N", negated})),
              HasSubstr("metadata that would change it"));
  EXPECT_THAT(error_in(call(v2, {kStorage, integer(0), ")", ")", "\x88", negated})),
              HasSubstr("hooks"));
  const std::string parameter = global("torch._utils", "_rebuild_parameter");
  EXPECT_THAT(error_in(call(parameter, {kStorage, "\x88", "N"})),
              HasSubstr("a parameter's data is a storage"));
  EXPECT_THAT(error_in(call(parameter, {kTensor})), HasSubstr("a parameter is made of 1 parts"));
}

TEST(TorchPickle, BuildIsForOrderedDictsOnly) {
  EXPECT_EQ(error_in(kOrderedDict + dict({text("_metadata"), "}"}) + "b"), "no error");
  EXPECT_THAT(error_in("}}b"), HasSubstr("BUILD is refused for a dictionary"));
  EXPECT_THAT(error_in(kTensor + "}b"), HasSubstr("BUILD is refused for a tensor"));
  EXPECT_THAT(error_in(global("collections", "OrderedDict") + "}b"),
              HasSubstr("BUILD is refused for collections.OrderedDict"));
  EXPECT_THAT(error_in(kOrderedDict + "Nb"), HasSubstr("the state of an object is None"));
  EXPECT_THAT(error_in(kOrderedDict + tuple({"N", "}"}) + "b"), HasSubstr("is a tuple of 2"));
}

TEST(TorchPickle, PersistentIdsOfTheWrongShape) {
  const auto error_with = [](const std::vector<std::string>& parts) {
    return error_in(tuple(parts) + "Q");
  };
  const std::string type = global("torch", "FloatStorage");
  EXPECT_THAT(error_in(text("storage") + "Q"), HasSubstr("a persistent id is the text"));
  EXPECT_THAT(error_with({}), HasSubstr("must be ('storage', type, key, device, elements)"));
  EXPECT_THAT(error_with({text("module"), type, text("0"), text("cpu"), integer(1)}),
              HasSubstr("must be ('storage'"));
  EXPECT_THAT(error_with({text("storage"), type, text("0"), text("cpu"), integer(1), "N"}),
              HasSubstr("must be ('storage'"));
  EXPECT_THAT(error_with({text("storage"), text("x"), text("0"), text("cpu"), integer(1)}),
              HasSubstr("a storage's type is the text"));
  EXPECT_THAT(error_with({text("storage"), type, integer(0), text("cpu"), integer(1)}),
              HasSubstr("a storage's key is the integer 0"));
  EXPECT_THAT(error_with({text("storage"), type, text("0"), "N", integer(1)}),
              HasSubstr("a storage's device is None"));
  EXPECT_THAT(error_with({text("storage"), type, text("0"), text("cpu"), text("1")}),
              HasSubstr("a storage's size is the text"));
  EXPECT_THAT(error_with({text("storage"), type, text("0"), text("cpu"), integer(-1)}),
              HasSubstr("storage \"0\" has -1 elements"));
  EXPECT_THAT(error_in(kStorage + "0" + storage("FloatStorage", "0", 13)),
              HasSubstr("storage \"0\" is said to be 12 elements of torch.FloatStorage and 13"));
  EXPECT_THAT(error_in(kStorage + "0" + storage("HalfStorage", "0", 12)),
              HasSubstr("and 12 of torch.HalfStorage"));
}

TEST(TorchPickle, StoragesOfOtherDTypesAreNamedWithTheTensor) {
  for (const char* type : {"DoubleStorage", "IntStorage", "ShortStorage", "CharStorage",
                           "ByteStorage", "ComplexFloatStorage", "QInt8Storage"}) {
    EXPECT_THAT(
        error_in(named(tensor(storage(type, "0", 4), 0, {4}, {1}))),
        HasSubstr(fmt::format("tensor \"w\": torch.{} is not supported (supported: ", type)));
  }
}

TEST(TorchPickle, ViewsOutsideTheirStorage) {
  const auto error_with = [](int64_t offset, const std::vector<int64_t>& size,
                             const std::vector<int64_t>& stride, int64_t elements = 12) {
    return error_in(named(tensor(storage("FloatStorage", "0", elements), offset, size, stride)));
  };
  EXPECT_EQ(error_with(0, {3, 4}, {4, 1}), "no error");
  EXPECT_EQ(error_with(11, {}, {}), "no error");
  EXPECT_EQ(error_with(12, {0}, {1}), "no error");
  EXPECT_EQ(error_with(0, {0}, {1}, 0), "no error");
  EXPECT_THAT(error_with(1, {3, 4}, {4, 1}),
              HasSubstr("tensor \"w\": size [3, 4], stride [4, 1] and offset 1 reach out of its "
                        "storage of 12 elements"));
  EXPECT_THAT(error_with(12, {}, {}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(13, {0}, {1}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(0, {1}, {1}, 0), HasSubstr("reach out"));
  EXPECT_THAT(error_with(0, {2}, {12}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(-1, {2}, {1}), HasSubstr("storage offset -1 is negative"));
  EXPECT_THAT(error_with(0, {-2}, {1}), HasSubstr("size -2 is negative"));
  EXPECT_THAT(error_with(3, {2}, {-1}), HasSubstr("stride -1 is negative"));
  EXPECT_THAT(error_with(0, {2}, {1, 1}), HasSubstr("has 1 sizes but 2 strides"));
  EXPECT_THAT(error_with(0, std::vector<int64_t>(9, 1), std::vector<int64_t>(9, 1)),
              HasSubstr("has 9 dimensions; at most 8"));
  // Repeated elements would let a small file ask for any amount of memory.
  EXPECT_THAT(error_with(0, {1000000, 4}, {0, 1}), HasSubstr("repeats the 12 elements"));
  EXPECT_THAT(error_with(0, {13}, {0}), HasSubstr("repeats the 12 elements"));
  // Products and sums that wrap around.
  const int64_t big = int64_t{1} << 62;
  EXPECT_THAT(error_with(INT64_MAX, {3}, {INT64_MAX}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(0, {5}, {big}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(1, {3, 3}, {INT64_MAX, INT64_MAX}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(0, {big, 4}, {0, 0}), HasSubstr("reach out"));
  EXPECT_THAT(error_with(0, {big, 4, 0}, {0, 0, 1}), HasSubstr("reach out")) << "of no elements";
  EXPECT_THAT(error_with(0, {big, big, big, big}, {0, 0, 0, 0}, INT64_MAX), HasSubstr("reach out"));
  const std::string of_texts = call(global("torch._utils", "_rebuild_tensor"),
                                    {kStorage, integer(0), tuple({text("2")}), integers({1})});
  EXPECT_THAT(error_in(named(of_texts)), HasSubstr("a size is the text \"2\", not an integer"));
}

TEST(TorchPickle, HugeLengths) {
  const std::string cut_short = "the pickle is cut short";
  const uint64_t most = ~uint64_t{0};
  EXPECT_THAT(error_in("X" + little_endian(most, 4)), HasSubstr(cut_short));
  EXPECT_THAT(error_in("\x8d" + little_endian(most, 8)), HasSubstr(cut_short));
  EXPECT_THAT(error_in("\x8d" + little_endian(most - 10, 8)), HasSubstr(cut_short));
  EXPECT_THAT(error_in("\x8c\xff" + std::string(10, 'a')), HasSubstr(cut_short));
  EXPECT_THAT(error_in("T" + little_endian(0xfffffff0, 4)), HasSubstr(cut_short));
  EXPECT_THAT(error_in("\x95" + little_endian(most, 8), 4),
              HasSubstr("a frame has 18446744073709"));
  EXPECT_THAT(error_in("\x8b" + little_endian(0x7fffffff, 4)),
              HasSubstr("an integer of 2147483647 bytes; at most 8"));
  EXPECT_THAT(error_in("\x8b" + little_endian(0x80000000, 4)), HasSubstr("at most 8"));
  EXPECT_THAT(error_in("\x8a\xff" + std::string(255, '\1')), HasSubstr("at most 8"));
  EXPECT_THAT(error_in("}r" + little_endian(0xffffffff, 4)),
              HasSubstr("memo index 4294967295 is larger than the pickle"));
  EXPECT_THAT(error_in("j" + little_endian(0xffffffff, 4)), HasSubstr("under memo 4294967295"));
  EXPECT_THAT(error_of(std::string((size_t{4} << 20) + 1, '}')), HasSubstr("at most 4194304"));
}

TEST(TorchPickle, StackAndMemo) {
  EXPECT_THAT(error_in(""), HasSubstr("ends with 0 values"));
  EXPECT_THAT(error_in("}}"), HasSubstr("ends with 2 values"));
  EXPECT_THAT(error_in("}("), HasSubstr("and 1 marks"));
  EXPECT_EQ(error_in("}(0" + std::string("1")), error_in("}(01"));
  EXPECT_THAT(error_in("}(0"), HasSubstr("1 values are wanted, 0 are on the stack"))
      << "what lies below a mark is out of reach";
  EXPECT_EQ(error_in("}(]1"), "no error");
  EXPECT_EQ(error_in("}20"), "no error");
  EXPECT_THAT(error_in("t"), HasSubstr("there is no mark"));
  EXPECT_THAT(error_in("u"), HasSubstr("there is no mark"));
  EXPECT_THAT(error_in("}\x87"), HasSubstr("3 values are wanted, 1 are on the stack"));
  EXPECT_THAT(error_in("}s"), HasSubstr("3 values are wanted"));
  EXPECT_THAT(error_in("R"), HasSubstr("1 values are wanted"));
  EXPECT_THAT(error_in("h\7"), HasSubstr("nothing was stored under memo 7"));
  EXPECT_THAT(error_in("}q\2h\1"), HasSubstr("nothing was stored under memo 1"));
  EXPECT_THAT(error_in("q\1"), HasSubstr("1 values are wanted"));
  EXPECT_THAT(error_in("]}s"), HasSubstr("3 values are wanted"));
  EXPECT_THAT(error_in("]" + text("a") + "Ns"), HasSubstr("what is given items is a list"));
  EXPECT_THAT(error_in("}Na"), HasSubstr("what is appended to is a dictionary"));
  EXPECT_THAT(error_of("\x80\2}.}"), HasSubstr("1 bytes follow the end"));
  EXPECT_THAT(error_in(text("\xff")), HasSubstr("is not UTF-8"));
  for (const char* bad : {"\xc0\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xe2\x82", "\x80"}) {
    EXPECT_THAT(error_in(text(bad)), HasSubstr("is not UTF-8"));
  }
  EXPECT_THAT(error_in(text("\xed\x9f\xbf\xf4\x8f\xbf\xbf\xe2\x82\xac")),
              HasSubstr("holds the text"));
}

TEST(TorchPickle, Protocols) {
  EXPECT_THAT(error_of(""), HasSubstr("cut short"));
  EXPECT_THAT(error_of("\x80"), HasSubstr("cut short"));
  EXPECT_THAT(error_of("}."), HasSubstr("not a pickle of protocol 2 to 5"));
  for (const int protocol : {0, 1, 6, 255}) {
    EXPECT_THAT(error_in("}", protocol), HasSubstr("protocol " + std::to_string(protocol)));
  }
}

TEST(TorchPickle, BombsStaySmall) {
  // Every tuple holds the one before it twice: 2^1000 leaves, if anybody looked at them.
  std::string laughs = ")";
  for (int i = 0; i < 1000; ++i) laughs += "2\x86";
  EXPECT_THAT(error_in(laughs), HasSubstr("holds a tuple of 2"));
  EXPECT_THAT(error_in(named(laughs)), HasSubstr("\"w\" is a tuple of 2"));
  // The same by memo, in lists.
  std::string lists = "]q" + std::string(1, '\0') + "0";
  for (char i = 0; i < 100; ++i) {
    lists += "](" + ("h" + std::string(1, i)) + ("h" + std::string(1, i)) + "eq" +
             std::string(1, static_cast<char>(i + 1)) + "0";
  }
  EXPECT_THAT(error_in(lists + "h\x64"), HasSubstr("holds a list of 2"));
  // A list in itself, a dictionary in itself.
  EXPECT_THAT(error_in("]q" + std::string(1, '\0') + "h" + std::string(1, '\0') + "a"),
              HasSubstr("holds a list of 1"));
  EXPECT_THAT(
      error_in("}q" + std::string(1, '\0') + text("model") + "h" + std::string(1, '\0') + "s"),
      HasSubstr("\"model\" is a dictionary of 1, not a tensor"));
  // Deep nesting, to the largest pickle there may be.
  const size_t deep = (size_t{4} << 20) - 4;
  EXPECT_THAT(error_in(")" + std::string(deep, '\x85')), HasSubstr("holds a tuple of 1"));
  EXPECT_THAT(error_in(std::string(deep, '(')), HasSubstr("marks on the stack"));
  EXPECT_THAT(error_in(std::string(deep, '}')), HasSubstr("values and 0 marks"));
  EXPECT_THAT(error_in(std::string(deep, ')')), HasSubstr("values and 0 marks"));
  // A long text under many names, a long size in many tensors: neither is copied for each.
  const std::string longest(100000, 'k');
  std::string many = storage("FloatStorage", longest, 1) + "q" + std::string(1, '\0') + "0}";
  for (int i = 0; i < 1000; ++i) {
    many += text(std::to_string(i)) +
            call(global("torch._utils", "_rebuild_tensor"),
                 {"h" + std::string(1, '\0'), integer(0), ")", ")"}) +
            "s";
  }
  const TorchPickle parsed = parse(whole(many));
  EXPECT_THAT(parsed.tensors, SizeIs(1000));
  EXPECT_THAT(parsed.storages, SizeIs(1));
}

/// The pickles of files that PyTorch wrote, and hand-made ones.
std::vector<std::string> good_pickles() {
  std::vector<std::string> all = {whole(named(kTensor)), whole(kOrderedDict)};
  const auto corpus = std::filesystem::path(CONVOKE_SOURCE_DIR) / "tests/fuzz/corpus/torch_pickle";
  for (const char* name : {"kinds-1.6.pkl", "kinds-2.15.pkl", "medusa-2.15.pkl", "wrapped-2.15.pkl",
                           "eagle3-2.15.pkl"}) {
    std::ifstream file(corpus / name, std::ios::binary);
    EXPECT_TRUE(file) << name;
    all.emplace_back(std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>());
  }
  return all;
}

TEST(TorchPickle, EveryTruncationIsAnError) {
  for (const std::string& bytes : good_pickles()) {
    EXPECT_EQ(error_of(bytes), "no error");
    for (size_t size = 0; size < bytes.size(); ++size) {
      EXPECT_NE(error_of(bytes.substr(0, size)), "no error") << size;
    }
  }
}

TEST(TorchPickle, FlippedBytesEndInAnErrorOrInTensors) {
  std::mt19937 random(7);
  size_t refused = 0;
  for (const std::string& bytes : good_pickles()) {
    for (int round = 0; round < 3000; ++round) {
      std::string copy = bytes;
      for (size_t i = 0; i <= random() % 3; ++i)
        copy[random() % copy.size()] = static_cast<char>(random());
      refused += error_of(copy) == "no error" ? 0 : 1;
    }
  }
  EXPECT_GT(refused, 10000u);
}

TEST(TorchPickle, WhatPythonWouldHaveExecutedIsRefused) {
  const auto corpus = std::filesystem::path(CONVOKE_SOURCE_DIR) / "tests/fuzz/corpus/torch_pickle";
  for (const char* name : {"system-2.pkl", "system-4.pkl"}) {
    std::ifstream file(corpus / name, std::ios::binary);
    const std::string bytes{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    EXPECT_THAT(error_of(bytes), HasSubstr("global \"system\" of module \"posix\" is refused"));
  }
}

}  // namespace
}  // namespace convoke
