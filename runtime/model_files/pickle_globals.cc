// What a pickle may name and call: the globals of a dictionary of tensors.
#include <array>

#include "runtime/model_files/pickle_machine.h"
#include "runtime/model_files/shown_text.h"

namespace convoke {
namespace {

struct StorageType {
  std::string_view name;
  std::optional<DType> dtype;
};
constexpr std::array<StorageType, 17> kStorageTypes = {{{"FloatStorage", DType::kFloat32},
                                                        {"BFloat16Storage", DType::kBFloat16},
                                                        {"HalfStorage", DType::kFloat16},
                                                        {"LongStorage", DType::kInt64},
                                                        {"BoolStorage", DType::kBool},
                                                        {"DoubleStorage", {}},
                                                        {"IntStorage", {}},
                                                        {"ShortStorage", {}},
                                                        {"CharStorage", {}},
                                                        {"ByteStorage", {}},
                                                        {"ComplexFloatStorage", {}},
                                                        {"ComplexDoubleStorage", {}},
                                                        {"QUInt8Storage", {}},
                                                        {"QInt8Storage", {}},
                                                        {"QInt32Storage", {}},
                                                        {"QUInt4x2Storage", {}},
                                                        {"QUInt2x4Storage", {}}}};

struct Callable {
  std::string_view module, name;
  PickleKind kind;
};
constexpr std::array<Callable, 5> kCallables = {
    {{"collections", "OrderedDict", PickleKind::kOrderedDictType},
     {"torch", "Size", PickleKind::kSizeType},
     {"torch._utils", "_rebuild_tensor", PickleKind::kRebuildTensor},
     {"torch._utils", "_rebuild_tensor_v2", PickleKind::kRebuildTensorV2},
     {"torch._utils", "_rebuild_parameter", PickleKind::kRebuildParameter}}};

/// What the machine must not do for anybody, told better than "unknown".
struct RefusedGlobal {
  std::string_view module, name, why;
};
constexpr std::array<RefusedGlobal, 4> kRefusedGlobals = {
    {{"torch.storage", "_load_from_bytes", "it would unpickle once more, without any limit"},
     {"torch.storage", "UntypedStorage", "tensors of its dtypes are not supported"},
     {"torch._utils", "_rebuild_tensor_v3", "tensors of its dtypes are not supported"},
     {"torch._utils", "_rebuild_device_tensor_from_numpy", "it runs numpy's own unpickling"}}};

}  // namespace

void PickleMachine::refuse_global(std::string_view module, std::string_view name) const {
  std::string_view why = "a dictionary of tensors needs no such thing";
  for (const RefusedGlobal& refused : kRefusedGlobals) {
    if (refused.module == module && refused.name == name) why = refused.why;
  }
  fail("global {} of module {} is refused: {} (nothing was executed)", shown_text(name),
       shown_text(module), why);
}

void PickleMachine::push_global(std::string_view module, std::string_view name) {
  for (const Callable& known : kCallables) {
    if (known.module == module && known.name == name) {
      push(make(known.kind));
      return;
    }
  }
  for (size_t i = 0; i < kStorageTypes.size() && module == "torch"; ++i) {
    if (kStorageTypes[i].name == name) {
      push(make(PickleKind::kStorageType, static_cast<int64_t>(i)));
      return;
    }
  }
  refuse_global(module, name);
}

/// ("storage", type, key, device, elements); the device does not matter to us.
void PickleMachine::persistent_load() {
  const PickleId id = pop();
  expect(id, PickleKind::kTuple, "a persistent id");
  const std::vector<PickleId>& parts = items(id);
  constexpr size_t kParts = 5;
  if (parts.size() != kParts || value(parts[0]).text != "storage") {
    fail("a persistent id must be ('storage', type, key, device, elements)");
  }
  const PickleValue& type = expect(parts[1], PickleKind::kStorageType, "a storage's type");
  const std::string_view key = expect(parts[2], PickleKind::kText, "a storage's key").text;
  expect(parts[3], PickleKind::kText, "a storage's device");
  const int64_t elements = expect(parts[4], PickleKind::kInt, "a storage's size").number;
  if (elements < 0) fail("storage {} has {} elements", shown_text(key), elements);
  const StorageType& known = kStorageTypes[static_cast<size_t>(type.number)];
  const auto [place, is_new] = storage_by_key_.try_emplace(key, storages_.size());
  if (is_new) {
    storages_.push_back({key, known.name, known.dtype, static_cast<uint64_t>(elements)});
  }
  const Storage& storage = storages_[place->second];
  if (storage.type != known.name || storage.elements != static_cast<uint64_t>(elements)) {
    fail("storage {} is said to be {} elements of torch.{} and {} of torch.{}", shown_text(key),
         storage.elements, storage.type, elements, known.name);
  }
  push(make(PickleKind::kStorage, static_cast<int64_t>(place->second)));
}

void PickleMachine::reduce() {
  const PickleId args = pop();
  expect(args, PickleKind::kTuple, "the arguments of a call");
  const PickleId function = pop();
  push(call(function, items(args)));
}

PickleId PickleMachine::call(PickleId function, const std::vector<PickleId>& args) {
  switch (value(function).kind) {
    case PickleKind::kOrderedDictType: {
      if (!args.empty()) fail("OrderedDict is called with {} arguments, not with 0", args.size());
      const PickleId dict = make_container(PickleKind::kDict, {});
      values_[dict].ordered = true;
      return dict;
    }
    case PickleKind::kSizeType:
      if (args.size() != 1) fail("torch.Size is called with {} arguments, not with 1", args.size());
      expect(args[0], PickleKind::kTuple, "the argument of torch.Size");
      return args[0];
    case PickleKind::kRebuildTensor:
      return rebuild_tensor(args, 4);
    case PickleKind::kRebuildTensorV2:
      return rebuild_tensor(args, 7);
    case PickleKind::kRebuildParameter:
      return rebuild_parameter(args);
    default:
      fail("{} cannot be called", described(function));
  }
}

/// (storage, offset, size, stride), and for _rebuild_tensor_v2 two or three more: requires_grad,
/// hooks, metadata.
PickleId PickleMachine::rebuild_tensor(const std::vector<PickleId>& args, size_t most) {
  const size_t least = most == 4 ? 4 : 6;
  if (args.size() < least || args.size() > most) {
    fail("a tensor is made of {} parts, not of {} to {}", args.size(), least, most);
  }
  const PickleValue& storage = expect(args[0], PickleKind::kStorage, "a tensor's storage");
  const PickleValue& offset = expect(args[1], PickleKind::kInt, "a tensor's offset");
  expect(args[2], PickleKind::kTuple, "a tensor's size");
  expect(args[3], PickleKind::kTuple, "a tensor's stride");
  if (args.size() > 4) expect(args[4], PickleKind::kBool, "a tensor's requires_grad");
  if (args.size() > 5) check_hooks(args[5]);
  // Metadata says that the values are to be negated or conjugated.
  if (args.size() > 6) check_hooks(args[6]);
  tensors_.push_back({static_cast<size_t>(storage.number), offset.number, args[2], args[3]});
  return make(PickleKind::kTensor, static_cast<int64_t>(tensors_.size() - 1));
}

PickleId PickleMachine::rebuild_parameter(const std::vector<PickleId>& args) {
  constexpr size_t kParts = 3;
  if (args.size() != kParts) {
    fail("a parameter is made of {} parts, not of {}", args.size(), kParts);
  }
  expect(args[0], PickleKind::kTensor, "a parameter's data");
  expect(args[1], PickleKind::kBool, "a parameter's requires_grad");
  check_hooks(args[2]);
  return args[0];
}

void PickleMachine::check_hooks(PickleId id) const {
  if (value(id).kind == PickleKind::kNone) return;
  expect(id, PickleKind::kDict, "a tensor's hooks or metadata");
  if (!items(id).empty()) fail("a tensor has hooks or metadata that would change it");
}

/// Attributes of a dictionary (torch puts the modules' versions there). They do not matter to us.
void PickleMachine::build() {
  const PickleId state = pop();
  expect(state, PickleKind::kDict, "the state of an object");
  const PickleId object = peek();
  if (value(object).kind != PickleKind::kDict || !value(object).ordered) {
    fail("opcode BUILD is refused for {}: only an OrderedDict may have attributes",
         described(object));
  }
}

std::string PickleMachine::described(PickleId id) const {
  const PickleValue& it = value(id);
  switch (it.kind) {
    case PickleKind::kNone:
      return "None";
    case PickleKind::kBool:
      return it.number != 0 ? "True" : "False";
    case PickleKind::kInt:
      return fmt::format("the integer {}", it.number);
    case PickleKind::kFloat:
      return "a floating-point number";
    case PickleKind::kText:
      return "the text " + shown_text(it.text);
    case PickleKind::kTuple:
      return fmt::format("a tuple of {}", items(id).size());
    case PickleKind::kList:
      return fmt::format("a list of {}", items(id).size());
    case PickleKind::kDict:
      return fmt::format("a dictionary of {}", items(id).size() / 2);
    case PickleKind::kStorageType:
      return fmt::format("torch.{}", kStorageTypes[static_cast<size_t>(it.number)].name);
    case PickleKind::kStorage:
      return "a storage";
    case PickleKind::kTensor:
      return "a tensor";
    default:
      break;
  }
  for (const Callable& known : kCallables) {
    if (known.kind == it.kind) return fmt::format("{}.{}", known.module, known.name);
  }
  return "nothing that is known";
}

}  // namespace convoke
