#include "kernels/check.h"

#include <cstdio>
#include <cstdlib>

namespace convoke::detail {

void check_failed(const char* file, int line, const char* what, const std::string& values) {
  std::fprintf(stderr, "convoke: internal error at %s:%d: %s%s%s\n", file, line, what,
               values.empty() ? "" : ": ", values.c_str());
  std::abort();
}

}  // namespace convoke::detail
