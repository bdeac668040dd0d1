#include "parallel/tree_sum.h"

#include <algorithm>

#include "kernels/check.h"

namespace convoke {
namespace {

template <int Width, int N>
inline float subtree(const float* const (&s)[N], int first, int64_t i) {
  if constexpr (Width == 1) {
    return s[first][i];
  } else {
    return subtree<Width / 2>(s, first, i) + subtree<Width / 2>(s, first + Width / 2, i);
  }
}

// The loops carry no dependency: a source may be the target, but only element by element.
template <int N, bool Add>
void sum(const float* const* sources, float* target, Range range) {
  const float* s[N];
  std::copy(sources, sources + N, s);
#pragma GCC ivdep
  for (int64_t i = range.begin; i < range.end; ++i) {
    const float total = subtree<N>(s, 0, i);
    target[i] = Add ? target[i] + total : total;
  }
}

template <bool Add>
void dispatch(const float* const* sources, int n, float* target, Range range) {
  switch (n) {
    case 1:
      return sum<1, Add>(sources, target, range);
    case 2:
      return sum<2, Add>(sources, target, range);
    case 4:
      return sum<4, Add>(sources, target, range);
    case 8:
      return sum<8, Add>(sources, target, range);
    default:
      CONVOKE_CHECK_EQ(n, 8);
  }
}

}  // namespace

void add_tree_sum(const float* const* sources, int n, float* target, Range range) {
  dispatch<true>(sources, n, target, range);
}

void store_tree_sum(const float* const* sources, int n, float* target, Range range) {
  dispatch<false>(sources, n, target, range);
}

Range piece_of(Range whole, int part, int parts, int64_t unit) {
  const int64_t units = (whole.size() + unit - 1) / unit;
  const int64_t begin = whole.begin + units * part / parts * unit;
  const int64_t end = whole.begin + units * (part + 1) / parts * unit;
  return {std::min(begin, whole.end), std::min(end, whole.end)};
}

}  // namespace convoke
