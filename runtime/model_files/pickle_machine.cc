#include "runtime/model_files/pickle_machine.h"

#include <algorithm>
#include <array>
#include <bit>
#include <iterator>

#include "runtime/model_files/shown_text.h"

namespace convoke {
namespace {

/// A model of a thousand tensors needs some 200 KB. Values take up to 60 bytes for a byte of
/// pickle, so that this bounds memory too.
constexpr size_t kMaxPickleBytes = size_t{4} << 20;
constexpr size_t kMaxLine = 256;

enum Opcode : uint8_t {
  kMark = '(',
  kStop = '.',
  kPop = '0',
  kPopMark = '1',
  kDup = '2',
  kBinFloat = 'G',
  kBinInt = 'J',
  kBinInt1 = 'K',
  kBinInt2 = 'M',
  kNone = 'N',
  kBinPersId = 'Q',
  kReduce = 'R',
  kBinString = 'T',
  kShortBinString = 'U',
  kBinUnicode = 'X',
  kAppend = 'a',
  kBuild = 'b',
  kGlobal = 'c',
  kAppends = 'e',
  kBinGet = 'h',
  kInst = 'i',
  kLongBinGet = 'j',
  kBinPut = 'q',
  kLongBinPut = 'r',
  kSetItem = 's',
  kTuple = 't',
  kSetItems = 'u',
  kEmptyTuple = ')',
  kEmptyList = ']',
  kEmptyDict = '}',
  kProto = 0x80,
  kTuple1 = 0x85,
  kTuple3 = 0x87,
  kNewTrue = 0x88,
  kNewFalse = 0x89,
  kLong1 = 0x8a,
  kLong4 = 0x8b,
  kShortBinUnicode = 0x8c,
  kBinUnicode8 = 0x8d,
  kStackGlobal = 0x93,
  kMemoize = 0x94,
  kFrame = 0x95,
};

struct RefusedOpcode {
  uint8_t opcode;
  std::string_view name;
};
constexpr std::array<RefusedOpcode, 25> kRefusedOpcodes = {{{'o', "OBJ"},
                                                            {0x81, "NEWOBJ"},
                                                            {0x92, "NEWOBJ_EX"},
                                                            {0x82, "EXT1"},
                                                            {0x83, "EXT2"},
                                                            {0x84, "EXT4"},
                                                            {'P', "PERSID"},
                                                            {'I', "INT"},
                                                            {'L', "LONG"},
                                                            {'F', "FLOAT"},
                                                            {'S', "STRING"},
                                                            {'V', "UNICODE"},
                                                            {'d', "DICT"},
                                                            {'l', "LIST"},
                                                            {'g', "GET"},
                                                            {'p', "PUT"},
                                                            {'B', "BINBYTES"},
                                                            {'C', "SHORT_BINBYTES"},
                                                            {0x8e, "BINBYTES8"},
                                                            {0x8f, "EMPTY_SET"},
                                                            {0x90, "ADDITEMS"},
                                                            {0x91, "FROZENSET"},
                                                            {0x96, "BYTEARRAY8"},
                                                            {0x97, "NEXT_BUFFER"},
                                                            {0x98, "READONLY_BUFFER"}}};

/// UTF-8 as RFC 3629 has it: shortest forms only, no surrogates, at most U+10FFFF.
bool is_utf8(std::string_view text) {
  size_t i = 0;
  while (i < text.size()) {
    const auto lead = static_cast<unsigned char>(text[i++]);
    if (lead < 0x80) continue;
    const int more = lead >= 0xf0 ? 3 : lead >= 0xe0 ? 2 : 1;
    if (lead < 0xc2 || lead > 0xf4) return false;
    uint32_t point = lead & (0x3fu >> more);
    for (int k = 0; k < more; ++k, ++i) {
      if (i == text.size() || (static_cast<unsigned char>(text[i]) & 0xc0) != 0x80) return false;
      point = (point << 6) | (static_cast<unsigned char>(text[i]) & 0x3fu);
    }
    constexpr std::array<uint32_t, 4> kLeast = {0, 0x80, 0x800, 0x10000};
    if (point < kLeast[static_cast<size_t>(more)] || point > 0x10ffff) return false;
    if (0xd800 <= point && point <= 0xdfff) return false;
  }
  return true;
}

}  // namespace

PickleMachine::PickleMachine(std::span<const std::byte> pickle, const std::string& name)
    : pickle_(pickle), name_(name) {}

PickleId PickleMachine::run() {
  if (pickle_.size() > kMaxPickleBytes) {
    fail("the pickle has {} bytes; at most {} are expected of a dictionary of tensors",
         pickle_.size(), kMaxPickleBytes);
  }
  constexpr uint64_t kLeastProtocol = 2;
  constexpr uint64_t kMostProtocol = 5;
  if (take_number(1) != kProto) fail("not a pickle of protocol 2 to 5");
  const uint64_t protocol = take_number(1);
  if (protocol < kLeastProtocol || protocol > kMostProtocol) {
    fail("pickle protocol {} is not supported (supported: 2 to 5)", protocol);
  }
  for (;;) {
    opcode_at_ = at_;
    const auto opcode = static_cast<uint8_t>(take_number(1));
    if (opcode == kStop) break;
    if (!execute(opcode)) refuse_opcode(opcode);
  }
  if (at_ != pickle_.size()) fail("{} bytes follow the end of the pickle", pickle_.size() - at_);
  if (stack_.size() != 1 || !marks_.empty()) {
    fail("the pickle ends with {} values and {} marks on the stack, not with one value",
         stack_.size(), marks_.size());
  }
  return stack_.back();
}

void PickleMachine::refuse_opcode(uint8_t opcode) const {
  for (const RefusedOpcode& refused : kRefusedOpcodes) {
    if (refused.opcode != opcode) continue;
    fail("opcode {} is refused: a dictionary of tensors needs none (nothing was executed)",
         refused.name);
  }
  fail("0x{:02x} is no opcode that may stand here", opcode);
}

std::string_view PickleMachine::take(uint64_t size) {
  if (size > pickle_.size() - at_) {
    fail("the pickle is cut short: {} bytes are wanted, {} are left", size, pickle_.size() - at_);
  }
  const auto* begin = reinterpret_cast<const char*>(pickle_.data()) + at_;
  at_ += size;
  return {begin, size};
}

uint64_t PickleMachine::take_number(size_t bytes) {
  const std::string_view text = take(bytes);
  uint64_t number = 0;
  for (size_t i = 0; i < bytes; ++i) {
    number |= uint64_t{static_cast<unsigned char>(text[i])} << (8 * i);
  }
  return number;
}

std::string_view PickleMachine::take_line() {
  const auto* begin = reinterpret_cast<const char*>(pickle_.data()) + at_;
  const std::string_view rest(begin, std::min(pickle_.size() - at_, kMaxLine));
  const size_t end = rest.find('\n');
  if (end == std::string_view::npos) fail("a name does not end within {} bytes", rest.size());
  take(end + 1);
  return rest.substr(0, end);
}

bool PickleMachine::execute(uint8_t opcode) {
  return execute_constant(opcode) || execute_container(opcode) || execute_stack(opcode) ||
         execute_object(opcode);
}

bool PickleMachine::execute_constant(uint8_t opcode) {
  switch (opcode) {
    case kNone:
      push(make(PickleKind::kNone));
      return true;
    case kNewTrue:
    case kNewFalse:
      push(make(PickleKind::kBool, opcode == kNewTrue ? 1 : 0));
      return true;
    case kBinInt:
      push(make(PickleKind::kInt, static_cast<int32_t>(take_number(4))));
      return true;
    case kBinInt1:
      push(make(PickleKind::kInt, static_cast<int64_t>(take_number(1))));
      return true;
    case kBinInt2:
      push(make(PickleKind::kInt, static_cast<int64_t>(take_number(2))));
      return true;
    case kLong1:
      push_long(take_number(1));
      return true;
    case kLong4:
      push_long(take_number(4));
      return true;
    case kBinFloat:
      take(8);  // a number beside the weights; what it is does not matter
      push(make(PickleKind::kFloat));
      return true;
    case kShortBinString:
    case kShortBinUnicode:
      push_text(take_number(1));
      return true;
    case kBinString:
    case kBinUnicode:
      push_text(take_number(4));
      return true;
    case kBinUnicode8:
      push_text(take_number(8));
      return true;
    default:
      return false;
  }
}

bool PickleMachine::execute_container(uint8_t opcode) {
  switch (opcode) {
    case kEmptyTuple:
      push(make_container(PickleKind::kTuple, {}));
      return true;
    case kTuple1:
    case kTuple1 + 1:
    case kTuple3:
      push_tuple(opcode - kTuple1 + size_t{1});
      return true;
    case kTuple: {
      const size_t begin = pop_mark();
      push_tuple(stack_.size() - begin);
      return true;
    }
    case kEmptyList:
      push(make_container(PickleKind::kList, {}));
      return true;
    case kEmptyDict:
      push(make_container(PickleKind::kDict, {}));
      return true;
    case kAppend:
      check_depth(2);
      append(stack_.size() - 1);
      return true;
    case kAppends:
      append(pop_mark());
      return true;
    case kSetItem:
      check_depth(3);
      set_items(stack_.size() - 2);
      return true;
    case kSetItems:
      set_items(pop_mark());
      return true;
    default:
      return false;
  }
}

bool PickleMachine::execute_stack(uint8_t opcode) {
  switch (opcode) {
    case kMark:
      marks_.push_back(stack_.size());
      return true;
    case kPop:
      pop();
      return true;
    case kPopMark:
      stack_.resize(pop_mark());
      return true;
    case kDup:
      push(peek());
      return true;
    case kBinPut:
      memoize(take_number(1));
      return true;
    case kLongBinPut:
      memoize(take_number(4));
      return true;
    case kMemoize:
      memoize(memo_.size());
      return true;
    case kBinGet:
      recall(take_number(1));
      return true;
    case kLongBinGet:
      recall(take_number(4));
      return true;
    case kFrame: {
      const uint64_t size = take_number(8);
      if (size > pickle_.size() - at_) {
        fail("the pickle is cut short: a frame has {} bytes, {} are left", size,
             pickle_.size() - at_);
      }
      return true;
    }
    default:
      return false;
  }
}

bool PickleMachine::execute_object(uint8_t opcode) {
  switch (opcode) {
    case kGlobal: {
      const std::string_view module = take_line();
      push_global(module, take_line());
      return true;
    }
    case kStackGlobal: {
      const PickleId name = pop();
      const PickleId module = pop();
      push_global(expect(module, PickleKind::kText, "the module of a global").text,
                  expect(name, PickleKind::kText, "the name of a global").text);
      return true;
    }
    case kInst: {  // refused whatever it names; say what it would have made
      const std::string_view module = take_line();
      refuse_global(module, take_line());
    }
    case kBinPersId:
      persistent_load();
      return true;
    case kReduce:
      reduce();
      return true;
    case kBuild:
      build();
      return true;
    default:
      return false;
  }
}

PickleId PickleMachine::make(PickleKind kind, int64_t number) {
  values_.push_back({kind, false, number, {}});
  return static_cast<PickleId>(values_.size() - 1);
}

PickleId PickleMachine::make_container(PickleKind kind, std::vector<PickleId> items) {
  containers_.push_back(std::move(items));
  return make(kind, static_cast<int64_t>(containers_.size() - 1));
}

void PickleMachine::push_text(uint64_t size) {
  const std::string_view text = take(size);
  if (!is_utf8(text)) fail("the text {} is not UTF-8", shown_text(text));
  const PickleId id = make(PickleKind::kText);
  values_[id].text = text;
  push(id);
}

/// Two's complement, little endian. Nothing in a checkpoint needs more than 64 bits.
void PickleMachine::push_long(uint64_t size) {
  constexpr uint64_t kMost = 8;
  if (size > kMost) fail("an integer of {} bytes; at most {} are supported", size, kMost);
  uint64_t number = take_number(size);
  if (size != 0 && size < kMost) {
    const auto unused = static_cast<int>(8 * (kMost - size));
    number = static_cast<uint64_t>(static_cast<int64_t>(number << unused) >> unused);
  }
  push(make(PickleKind::kInt, static_cast<int64_t>(number)));
}

void PickleMachine::push_tuple(size_t size) {
  check_depth(size);
  push(make_container(PickleKind::kTuple, take_from(stack_.size() - size)));
}

void PickleMachine::check_depth(size_t size) const {
  if (stack_.size() - floor() < size) {
    fail("{} values are wanted, {} are on the stack", size, stack_.size() - floor());
  }
}

PickleId PickleMachine::peek() const {
  check_depth(1);
  return stack_.back();
}

PickleId PickleMachine::pop() {
  const PickleId id = peek();
  stack_.pop_back();
  return id;
}

size_t PickleMachine::pop_mark() {
  if (marks_.empty()) fail("there is no mark on the stack");
  const size_t height = marks_.back();
  marks_.pop_back();
  return height;
}

void PickleMachine::memoize(uint64_t index) {
  // Every writer of pickles counts from zero; a larger number would only take memory.
  if (index > pickle_.size()) fail("memo index {} is larger than the pickle", index);
  if (index >= memo_.size()) memo_.resize(index + 1);
  memo_[index] = peek();
}

void PickleMachine::recall(uint64_t index) {
  if (index >= memo_.size() || !memo_[index]) fail("nothing was stored under memo {}", index);
  push(*memo_[index]);
}

std::vector<PickleId> PickleMachine::take_from(size_t begin) {
  std::vector<PickleId> taken(stack_.begin() + static_cast<std::ptrdiff_t>(begin), stack_.end());
  stack_.resize(begin);
  return taken;
}

void PickleMachine::append(size_t begin) {
  const std::vector<PickleId> taken = take_from(begin);
  const PickleValue& list = expect(peek(), PickleKind::kList, "what is appended to");
  auto& items = containers_[static_cast<size_t>(list.number)];
  items.insert(items.end(), taken.begin(), taken.end());
}

void PickleMachine::set_items(size_t begin) {
  const std::vector<PickleId> taken = take_from(begin);
  if (taken.size() % 2 != 0) fail("a dictionary key has no value");
  const PickleValue& dict = expect(peek(), PickleKind::kDict, "what is given items");
  for (size_t i = 0; i < taken.size(); i += 2) {
    expect(taken[i], PickleKind::kText, "a dictionary key");
  }
  auto& items = containers_[static_cast<size_t>(dict.number)];
  items.insert(items.end(), taken.begin(), taken.end());
}

const std::vector<PickleId>& PickleMachine::items(PickleId id) const {
  const PickleKind kind = value(id).kind;
  CONVOKE_CHECK(kind == PickleKind::kTuple || kind == PickleKind::kList ||
                kind == PickleKind::kDict);
  return containers_[static_cast<size_t>(value(id).number)];
}

const PickleMachine::Tensor& PickleMachine::tensor(PickleId id) const {
  CONVOKE_CHECK(value(id).kind == PickleKind::kTensor);
  return tensors_[static_cast<size_t>(value(id).number)];
}

const PickleValue& PickleMachine::expect(PickleId id, PickleKind kind, const char* what) const {
  if (value(id).kind != kind) fail("{} is {}", what, described(id));
  return value(id);
}

bool PickleMachine::is_plain(PickleId id) const {
  return value(id).kind <= PickleKind::kText;
}

}  // namespace convoke
