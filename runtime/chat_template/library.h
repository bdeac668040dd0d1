// What templates may call: filters, tests, global functions and the methods of values.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/chat_template/value.h"

namespace convoke::jinja {

using Filter = Value (*)(Interpreter&, const Value&, Arguments&);
using Test = bool (*)(Interpreter&, const Value&, Arguments&);
using Function = Value (*)(Interpreter&, Arguments&);
using Method = Value (*)(Interpreter&, const Value&, Arguments&);

struct NamedFilter {
  std::string_view name;
  Filter filter;
};

/// nullptr if there is none of this name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);
Method find_text_method(std::string_view name);
Method find_sequence_method(SequenceType type, std::string_view name);
Method find_dict_method(std::string_view name);

const std::vector<NamedFilter>& text_filters();
const std::vector<NamedFilter>& number_filters();
const std::vector<NamedFilter>& sequence_filters();
const std::vector<NamedFilter>& selection_filters();  ///< map, select, reject and their kin

struct NamedFunction {
  std::string_view name;
  Function function;
};
/// range, dict, namespace, raise_exception, strftime_now.
const std::vector<NamedFunction>& global_functions();

/// A global function as a value.
struct Builtin : Callable {
  explicit Builtin(const NamedFunction& named) : named_(named) {}
  Value call(Interpreter& interpreter, Arguments& arguments) override {
    return named_.function(interpreter, arguments);
  }
  std::string shown() const override { return "<function " + std::string(named_.name) + ">"; }

 private:
  NamedFunction named_;
};

/// Arguments laid out as a Python signature has them; faults as Python does where they do not fit.
class Signature {
 public:
  /// `names` with "" for parameters that cannot be given by name. The first `required` must be
  /// given. `arguments` must outlive this.
  Signature(std::string_view function, const Arguments& arguments,
            std::initializer_list<std::string_view> names, size_t required = 0);

  const Value* operator[](size_t i) const { return values_[i]; }  ///< nullptr: not given
  bool given(size_t i) const { return values_[i] != nullptr; }
  /// Given, and not None.
  bool has(size_t i) const { return given(i) && !values_[i]->is(Kind::kNone); }
  bool flag(size_t i, bool otherwise = false) const;
  int64_t integer(size_t i, int64_t otherwise) const;
  const std::string& text(size_t i) const;  ///< must be given, and a text

 private:
  std::string_view function_;
  std::vector<const Value*> values_;
};

}  // namespace convoke::jinja
