// The stack machine behind parse_torch_pickle: runs the opcodes that a dictionary of tensors needs
// on values of its own. No value can run code.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "kernels/check.h"
#include "kernels/tensor.h"

namespace convoke {

using PickleId = uint32_t;  ///< a value of the machine

enum class PickleKind : uint8_t {
  kNone,
  kBool,
  kInt,
  kFloat,
  kText,
  kTuple,
  kList,
  kDict,
  kOrderedDictType,  ///< these are the globals that are known
  kSizeType,
  kRebuildTensor,
  kRebuildTensorV2,
  kRebuildParameter,
  kStorageType,
  kStorage,
  kTensor,
};

struct PickleValue {
  PickleKind kind = PickleKind::kNone;
  bool ordered = false;   ///< a dict that is an OrderedDict, which may be given attributes
  int64_t number = 0;     ///< kBool, kInt; index of a container, storage, storage type or tensor
  std::string_view text;  ///< kText: valid UTF-8, points into the pickle
};

class PickleMachine {
 public:
  struct Storage {
    std::string_view key;
    std::string_view type;       ///< "FloatStorage"
    std::optional<DType> dtype;  ///< absent if we have none such
    uint64_t elements = 0;
  };
  struct Tensor {
    size_t storage = 0;
    int64_t offset = 0;
    PickleId shape = 0, strides = 0;  ///< tuples (of anything)
  };

  /// Both must outlive the machine.
  PickleMachine(std::span<const std::byte> pickle, const std::string& name);

  /// Runs to the STOP that must be the last byte; what is then on the stack. Throws Error(kModel).
  PickleId run();

  const PickleValue& value(PickleId id) const { return values_[id]; }
  /// Of a tuple or list its items; of a dict key, value, key, value, ..; all keys are texts.
  const std::vector<PickleId>& items(PickleId id) const;
  const Tensor& tensor(PickleId id) const;
  const Storage& storage(size_t index) const { return storages_[index]; }
  bool is_plain(PickleId id) const;          ///< None, a bool, a number or a text
  std::string described(PickleId id) const;  ///< for messages: "a list"

 private:
  template <typename... Args>
  [[noreturn]] void fail(fmt::format_string<Args...> format, Args&&... args) const {
    throw Error(ErrorKind::kModel, fmt::format("{}: byte {}: {}", name_, opcode_at_,
                                               fmt::format(format, std::forward<Args>(args)...)));
  }
  [[noreturn]] void refuse_global(std::string_view module, std::string_view name) const;
  [[noreturn]] void refuse_opcode(uint8_t opcode) const;

  std::string_view take(uint64_t size);
  uint64_t take_number(size_t bytes);  ///< little endian
  std::string_view take_line();

  bool execute(uint8_t opcode);  ///< one family after the other; false: no such opcode here
  bool execute_constant(uint8_t opcode);
  bool execute_container(uint8_t opcode);
  bool execute_stack(uint8_t opcode);
  bool execute_object(uint8_t opcode);

  PickleId make(PickleKind kind, int64_t number = 0);
  PickleId make_container(PickleKind kind, std::vector<PickleId> items);
  void push_text(uint64_t size);
  void push_long(uint64_t size);
  void push(PickleId id) { stack_.push_back(id); }
  void push_tuple(size_t size);
  PickleId pop();
  PickleId peek() const;
  size_t pop_mark();
  size_t floor() const { return marks_.empty() ? 0 : marks_.back(); }
  void check_depth(size_t size) const;
  void memoize(uint64_t index);
  void recall(uint64_t index);
  std::vector<PickleId> take_from(size_t begin);
  void append(size_t begin);
  void set_items(size_t begin);

  void push_global(std::string_view module, std::string_view name);
  void persistent_load();
  void reduce();
  void build();
  PickleId call(PickleId function, const std::vector<PickleId>& args);
  PickleId rebuild_tensor(const std::vector<PickleId>& args, size_t most);
  PickleId rebuild_parameter(const std::vector<PickleId>& args);
  void check_hooks(PickleId id) const;
  const PickleValue& expect(PickleId id, PickleKind kind, const char* what) const;

  std::span<const std::byte> pickle_;
  const std::string& name_;
  size_t at_ = 0;
  size_t opcode_at_ = 0;
  std::vector<PickleValue> values_;
  std::vector<std::vector<PickleId>> containers_;
  std::vector<Storage> storages_;
  std::unordered_map<std::string_view, size_t> storage_by_key_;
  std::vector<Tensor> tensors_;
  std::vector<PickleId> stack_;
  std::vector<size_t> marks_;  ///< heights of the stack
  std::vector<std::optional<PickleId>> memo_;
};

}  // namespace convoke
