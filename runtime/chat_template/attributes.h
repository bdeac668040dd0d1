// object.name and object[key] as the sandbox of transformers finds them.
#pragma once

#include <string>

#include "runtime/chat_template/value.h"

namespace convoke::jinja {

/// The attribute (a method), else the item of that name, else undefined. Faults on undefined.
Value get_attribute(Heap& heap, const Value& object, const std::string& name);
/// The item, else the attribute of that name, else undefined. Faults on undefined.
Value get_item(Heap& heap, const Value& object, const Value& key);
/// The attribute alone: the filter `attr`.
Value get_attribute_only(Heap& heap, const Value& object, const std::string& name);

}  // namespace convoke::jinja
