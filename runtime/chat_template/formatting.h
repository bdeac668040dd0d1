// Python's three ways to put values into a pattern: %, str.format and format().
#pragma once

#include "runtime/chat_template/value.h"

namespace convoke::jinja {

/// pattern % argument: a tuple gives the values in order, a dict those of %(name)s.
Value percent_format(Heap& heap, const Value& pattern, const Value& argument);

/// str.format, with attributes and items as the template language finds them.
Value brace_format(Heap& heap, const std::string& pattern, const Arguments& arguments);

}  // namespace convoke::jinja
