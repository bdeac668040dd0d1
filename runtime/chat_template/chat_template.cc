#include "runtime/chat_template/chat_template.h"

#include "runtime/chat_template/interpreter.h"
#include "runtime/chat_template/parser.h"
#include "runtime/tokenizer/unicode.h"

namespace convoke {
namespace {

using jinja::Dict;
using jinja::Heap;
using jinja::Value;
using nlohmann::ordered_json;

constexpr size_t kMaxSource = size_t{256} << 10;
constexpr size_t kMaxVariables = size_t{16} << 20;
constexpr size_t kMaxOutput = size_t{64} << 20;
constexpr int kMaxDepth = 100;
constexpr uint64_t kWorkPerByte = 32;

std::string valid(const std::string& text) {
  return unicode::is_valid_utf8(text) ? text : unicode::replace_invalid(text);
}

/// JSON as values, and how large it was.
class Importer {
 public:
  Importer(Heap& heap, const std::string& name) : heap_(heap), name_(name) {}

  Value text(const std::string& bytes) {
    count(bytes.size());
    return heap_.text(valid(bytes));
  }

  Value value(const ordered_json& json, int depth = 0) {
    if (depth > kMaxDepth) fail(fmt::format("nest more than {} levels deep", kMaxDepth));
    count(sizeof(Value));
    switch (json.type()) {
      case ordered_json::value_t::boolean:
        return Value::boolean(json.get<bool>());
      case ordered_json::value_t::number_unsigned:
        if (json.get<uint64_t>() > static_cast<uint64_t>(INT64_MAX)) {
          fail(
              fmt::format("have {}, which does not fit 64 bits with a sign", json.get<uint64_t>()));
        }
        [[fallthrough]];
      case ordered_json::value_t::number_integer:
        return Value::integer(json.get<int64_t>());
      case ordered_json::value_t::number_float:
        return Value::real(json.get<double>());
      case ordered_json::value_t::string:
        return text(json.get_ref<const std::string&>());
      case ordered_json::value_t::array:
        return array(json, depth);
      case ordered_json::value_t::object:
        return object(json, depth);
      default:
        return Value();
    }
  }

  uint64_t bytes() const { return bytes_; }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw_error(ErrorKind::kUsage, "{}: the variables for the chat template {}", name_, what);
  }

  void count(size_t bytes) {
    bytes_ += bytes;
    if (bytes_ > kMaxVariables) fail(fmt::format("take more than {} bytes", kMaxVariables));
  }

  Value array(const ordered_json& json, int depth) {
    std::vector<Value> items;
    for (const auto& item : json) items.push_back(value(item, depth + 1));
    return heap_.list(std::move(items));
  }

  Value object(const ordered_json& json, int depth) {
    Dict* dict = heap_.dict();
    for (const auto& [key, item] : json.items())
      dict->set(heap_, text(key), value(item, depth + 1));
    return Heap::value(dict);
  }

  Heap& heap_;
  const std::string& name_;
  uint64_t bytes_ = 0;
};

/// The scope that a template starts in. Names that it does not use need no values.
class Globals {
 public:
  Globals(const jinja::Program& program, Heap& heap)
      : program_(program), heap_(heap), scope_(heap.make<jinja::Scope>(nullptr)) {}

  void set(const std::string& name, Value value) {
    const int number = program_.names.find(name);
    if (number >= 0) scope_->set(heap_, number, std::move(value));
  }
  bool uses(const std::string& name) const { return program_.names.find(name) >= 0; }
  jinja::Scope& scope() { return *scope_; }

 private:
  const jinja::Program& program_;
  Heap& heap_;
  jinja::Scope* scope_;
};

void set_variables(Globals& globals, Importer& importer, Heap& heap, const ChatInput& input) {
  for (const jinja::NamedFunction& function : jinja::global_functions()) {
    const std::string name(function.name);
    if (!globals.uses(name)) continue;
    globals.set(name, Value(jinja::Kind::kCallable, heap.make<jinja::Builtin>(function)));
  }
  globals.set("documents", Value());
  globals.set("messages", importer.value(input.messages));
  globals.set("tools", importer.value(input.tools));
  globals.set("add_generation_prompt", Value::boolean(input.add_generation_prompt));
  if (!input.bos_token.empty()) globals.set("bos_token", importer.text(input.bos_token));
  if (!input.eos_token.empty()) globals.set("eos_token", importer.text(input.eos_token));
  if (input.extra.is_null()) return;
  for (const auto& [name, value] : input.extra.items()) {
    if (globals.uses(name)) globals.set(name, importer.value(value));
  }
}

void check_shape(const ChatInput& input, const std::string& name) {
  const auto fail = [&](const char* what) { throw_error(ErrorKind::kUsage, "{}: {}", name, what); };
  if (!input.messages.is_array()) fail("messages must be an array");
  for (const auto& message : input.messages) {
    if (!message.is_object()) fail("every message must be an object");
  }
  if (!input.tools.is_null() && !input.tools.is_array()) fail("tools must be an array or null");
  if (!input.extra.is_null() && !input.extra.is_object()) {
    fail("the further variables must be an object or null");
  }
}

}  // namespace

ChatTemplate::ChatTemplate(std::shared_ptr<const jinja::Program> program)
    : program_(std::move(program)) {}

ChatTemplate ChatTemplate::parse(std::string_view source, const std::string& name) {
  if (source.size() > kMaxSource) {
    throw_error(ErrorKind::kModel, "{}: the chat template has {} bytes, more than {}", name,
                source.size(), kMaxSource);
  }
  const std::string text = valid(std::string(source));
  return ChatTemplate(std::make_shared<jinja::Program>(jinja::parse_program(text, name)));
}

std::string ChatTemplate::render(const ChatInput& input, uint64_t work_limit) const {
  const std::string& name = program_->name;
  check_shape(input, name);
  // The variables get a heap of their own: they must fit whatever work the template may do.
  Heap variables(UINT64_MAX);
  Globals globals(*program_, variables);
  Importer importer(variables, name);
  set_variables(globals, importer, variables, input);
  Heap heap(work_limit + kWorkPerByte * importer.bytes());
  const std::time_t now = input.now ? *input.now : std::time(nullptr);
  jinja::Interpreter interpreter(*program_, heap, now, kMaxOutput);
  try {
    return interpreter.run(globals.scope());
  } catch (const jinja::Fault& fault) {
    throw_error(fault.kind(), "{}: line {}: {}", name, interpreter.line(), fault.what());
  }
}

}  // namespace convoke
