// Character ranges in which Unicode versions differ; see unicode.h.
//
// Made by asking the reference library (tokenizers 0.23) about every code point and comparing with
// PCRE2 10.42 and utf8proc 2.8; tests/golden/make_tokenizers.py --unicode asks again.
#include <utf8proc.h>

#include <algorithm>
#include <iterator>

#include "runtime/tokenizer/unicode.h"

namespace convoke::unicode {
namespace {

struct Range {
  uint32_t first, last;
};
struct Added {
  uint32_t first, last;
  Category category;
};

/// Characters assigned in Unicode 15.0, 15.1 and 16.0; and U+180E, which PCRE2 counts as white
/// space although it has been a format character since Unicode 6.3.
constexpr Added kAdded[] = {
    {0x897, 0x897, Category::kMn},      {0xcf3, 0xcf3, Category::kMc},
    {0xece, 0xece, Category::kMn},      {0x180e, 0x180e, Category::kCf},
    {0x1b4e, 0x1b4f, Category::kPo},    {0x1b7f, 0x1b7f, Category::kPo},
    {0x1c89, 0x1c89, Category::kLu},    {0x1c8a, 0x1c8a, Category::kLl},
    {0x2427, 0x2429, Category::kSo},    {0x2ffc, 0x2fff, Category::kSo},
    {0x31e4, 0x31e5, Category::kSo},    {0x31ef, 0x31ef, Category::kSo},
    {0xa7cb, 0xa7cc, Category::kLu},    {0xa7cd, 0xa7cd, Category::kLl},
    {0xa7da, 0xa7da, Category::kLu},    {0xa7db, 0xa7db, Category::kLl},
    {0xa7dc, 0xa7dc, Category::kLu},    {0x105c0, 0x105f3, Category::kLo},
    {0x10d40, 0x10d49, Category::kNd},  {0x10d4a, 0x10d4d, Category::kLo},
    {0x10d4e, 0x10d4e, Category::kLm},  {0x10d4f, 0x10d4f, Category::kLo},
    {0x10d50, 0x10d65, Category::kLu},  {0x10d69, 0x10d6d, Category::kMn},
    {0x10d6e, 0x10d6e, Category::kPd},  {0x10d6f, 0x10d6f, Category::kLm},
    {0x10d70, 0x10d85, Category::kLl},  {0x10d8e, 0x10d8f, Category::kSm},
    {0x10ec2, 0x10ec4, Category::kLo},  {0x10efc, 0x10eff, Category::kMn},
    {0x1123f, 0x11240, Category::kLo},  {0x11241, 0x11241, Category::kMn},
    {0x11380, 0x11389, Category::kLo},  {0x1138b, 0x1138b, Category::kLo},
    {0x1138e, 0x1138e, Category::kLo},  {0x11390, 0x113b5, Category::kLo},
    {0x113b7, 0x113b7, Category::kLo},  {0x113b8, 0x113ba, Category::kMc},
    {0x113bb, 0x113c0, Category::kMn},  {0x113c2, 0x113c2, Category::kMc},
    {0x113c5, 0x113c5, Category::kMc},  {0x113c7, 0x113ca, Category::kMc},
    {0x113cc, 0x113cd, Category::kMc},  {0x113ce, 0x113ce, Category::kMn},
    {0x113cf, 0x113cf, Category::kMc},  {0x113d0, 0x113d0, Category::kMn},
    {0x113d1, 0x113d1, Category::kLo},  {0x113d2, 0x113d2, Category::kMn},
    {0x113d3, 0x113d3, Category::kLo},  {0x113d4, 0x113d5, Category::kPo},
    {0x113d7, 0x113d8, Category::kPo},  {0x113e1, 0x113e2, Category::kMn},
    {0x116d0, 0x116e3, Category::kNd},  {0x11b00, 0x11b09, Category::kPo},
    {0x11bc0, 0x11be0, Category::kLo},  {0x11be1, 0x11be1, Category::kPo},
    {0x11bf0, 0x11bf9, Category::kNd},  {0x11f00, 0x11f01, Category::kMn},
    {0x11f02, 0x11f02, Category::kLo},  {0x11f03, 0x11f03, Category::kMc},
    {0x11f04, 0x11f10, Category::kLo},  {0x11f12, 0x11f33, Category::kLo},
    {0x11f34, 0x11f35, Category::kMc},  {0x11f36, 0x11f3a, Category::kMn},
    {0x11f3e, 0x11f3f, Category::kMc},  {0x11f40, 0x11f40, Category::kMn},
    {0x11f41, 0x11f41, Category::kMc},  {0x11f42, 0x11f42, Category::kMn},
    {0x11f43, 0x11f4f, Category::kPo},  {0x11f50, 0x11f59, Category::kNd},
    {0x11f5a, 0x11f5a, Category::kMn},  {0x1342f, 0x1342f, Category::kLo},
    {0x13439, 0x1343f, Category::kCf},  {0x13440, 0x13440, Category::kMn},
    {0x13441, 0x13446, Category::kLo},  {0x13447, 0x13455, Category::kMn},
    {0x13460, 0x143fa, Category::kLo},  {0x16100, 0x1611d, Category::kLo},
    {0x1611e, 0x16129, Category::kMn},  {0x1612a, 0x1612c, Category::kMc},
    {0x1612d, 0x1612f, Category::kMn},  {0x16130, 0x16139, Category::kNd},
    {0x16d40, 0x16d42, Category::kLm},  {0x16d43, 0x16d6a, Category::kLo},
    {0x16d6b, 0x16d6c, Category::kLm},  {0x16d6d, 0x16d6f, Category::kPo},
    {0x16d70, 0x16d79, Category::kNd},  {0x18cff, 0x18cff, Category::kLo},
    {0x1b132, 0x1b132, Category::kLo},  {0x1b155, 0x1b155, Category::kLo},
    {0x1cc00, 0x1ccef, Category::kSo},  {0x1ccf0, 0x1ccf9, Category::kNd},
    {0x1cd00, 0x1ceb3, Category::kSo},  {0x1d2c0, 0x1d2d3, Category::kNo},
    {0x1df25, 0x1df2a, Category::kLl},  {0x1e030, 0x1e06d, Category::kLm},
    {0x1e08f, 0x1e08f, Category::kMn},  {0x1e4d0, 0x1e4ea, Category::kLo},
    {0x1e4eb, 0x1e4eb, Category::kLm},  {0x1e4ec, 0x1e4ef, Category::kMn},
    {0x1e4f0, 0x1e4f9, Category::kNd},  {0x1e5d0, 0x1e5ed, Category::kLo},
    {0x1e5ee, 0x1e5ef, Category::kMn},  {0x1e5f0, 0x1e5f0, Category::kLo},
    {0x1e5f1, 0x1e5fa, Category::kNd},  {0x1e5ff, 0x1e5ff, Category::kPo},
    {0x1f6dc, 0x1f6dc, Category::kSo},  {0x1f774, 0x1f776, Category::kSo},
    {0x1f77b, 0x1f77f, Category::kSo},  {0x1f7d9, 0x1f7d9, Category::kSo},
    {0x1f8b2, 0x1f8bb, Category::kSo},  {0x1f8c0, 0x1f8c1, Category::kSo},
    {0x1fa75, 0x1fa77, Category::kSo},  {0x1fa87, 0x1fa89, Category::kSo},
    {0x1fa8f, 0x1fa8f, Category::kSo},  {0x1faad, 0x1faaf, Category::kSo},
    {0x1fabb, 0x1fabf, Category::kSo},  {0x1fac6, 0x1fac6, Category::kSo},
    {0x1face, 0x1facf, Category::kSo},  {0x1fada, 0x1fadc, Category::kSo},
    {0x1fadf, 0x1fadf, Category::kSo},  {0x1fae8, 0x1fae9, Category::kSo},
    {0x1faf7, 0x1faf8, Category::kSo},  {0x1fbcb, 0x1fbef, Category::kSo},
    {0x2b739, 0x2b739, Category::kHan}, {0x2ebf0, 0x2ee5d, Category::kHan},
    {0x31350, 0x323af, Category::kHan},
};

/// Category P for utf8proc, not for the reference's punctuation table (an older Unicode version).
constexpr Range kNotPunctuation[] = {
    {0x61d, 0x61d},     {0x9fd, 0x9fd},     {0xa76, 0xa76},     {0xc77, 0xc77},
    {0xc84, 0xc84},     {0x1b7d, 0x1b7e},   {0x2e43, 0x2e4f},   {0x2e52, 0x2e5d},
    {0x10ead, 0x10ead}, {0x10f55, 0x10f59}, {0x10f86, 0x10f89}, {0x1144b, 0x1144f},
    {0x1145a, 0x1145b}, {0x1145d, 0x1145d}, {0x11660, 0x1166c}, {0x116b9, 0x116b9},
    {0x1183b, 0x1183b}, {0x11944, 0x11946}, {0x119e2, 0x119e2}, {0x11a3f, 0x11a46},
    {0x11a9a, 0x11a9c}, {0x11a9e, 0x11aa2}, {0x11b00, 0x11b09}, {0x11c41, 0x11c45},
    {0x11c70, 0x11c71}, {0x11ef7, 0x11ef8}, {0x11f43, 0x11f4f}, {0x11fff, 0x11fff},
    {0x12ff1, 0x12ff2}, {0x16e97, 0x16e9a}, {0x16fe2, 0x16fe2}, {0x1e95e, 0x1e95f},
};

/// Combining classes, compositions and compatibility mappings that came after the version of the
/// reference's normaliser.
constexpr Range kOpaque[] = {
    {0x7fd, 0x7fd},     {0x898, 0x89f},     {0x8ca, 0x8d3},     {0x9fe, 0x9fe},
    {0xc3c, 0xc3c},     {0xd3b, 0xd3c},     {0xeba, 0xeba},     {0x1715, 0x1715},
    {0x1abf, 0x1ace},   {0x1df6, 0x1dfa},   {0x32ff, 0x32ff},   {0xa7f2, 0xa7f4},
    {0xa82c, 0xa82c},   {0xab69, 0xab69},   {0x10781, 0x107ba}, {0x10d24, 0x10d27},
    {0x10eab, 0x10eac}, {0x10efd, 0x10eff}, {0x10f46, 0x10f50}, {0x10f82, 0x10f85},
    {0x11070, 0x11070}, {0x1133b, 0x1133b}, {0x1145e, 0x1145e}, {0x11839, 0x1183a},
    {0x11930, 0x11930}, {0x11935, 0x11935}, {0x11938, 0x11938}, {0x1193d, 0x1193e},
    {0x11943, 0x11943}, {0x119e0, 0x119e0}, {0x11a34, 0x11a34}, {0x11a47, 0x11a47},
    {0x11a99, 0x11a99}, {0x11d42, 0x11d42}, {0x11d44, 0x11d45}, {0x11d97, 0x11d97},
    {0x11f41, 0x11f42}, {0x16ff0, 0x16ff1}, {0x1e030, 0x1e06d}, {0x1e08f, 0x1e08f},
    {0x1e130, 0x1e136}, {0x1e2ae, 0x1e2ae}, {0x1e2ec, 0x1e2ef}, {0x1e4ec, 0x1e4ef},
    {0x1f16c, 0x1f16c}, {0x1fbf0, 0x1fbf9},
};

template <typename Table>
auto find(const Table& table, uint32_t code_point) {
  const auto* it = std::upper_bound(std::begin(table), std::end(table), code_point,
                                    [](uint32_t c, const auto& range) { return c < range.first; });
  if (it == std::begin(table)) return std::end(table);
  --it;
  return code_point <= it->last ? it : std::end(table);
}

}  // namespace

Category new_category(uint32_t code_point) {
  // Most of CJK lies in one wide gap of the table.
  if (code_point < std::begin(kAdded)->first || (code_point > 0x31EF && code_point < 0xA7CB)) {
    return Category::kNone;
  }
  const auto* it = find(kAdded, code_point);
  return it == std::end(kAdded) ? Category::kNone : it->category;
}

bool is_punctuation(uint32_t c) {
  if (c < 0x80) {
    return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
           (c >= 0x7B && c <= 0x7E);
  }
  if (c == 0x166D || c == 0x111C9) return true;  // were punctuation once
  switch (utf8proc_category(static_cast<utf8proc_int32_t>(c))) {
    case UTF8PROC_CATEGORY_PC:
    case UTF8PROC_CATEGORY_PD:
    case UTF8PROC_CATEGORY_PS:
    case UTF8PROC_CATEGORY_PE:
    case UTF8PROC_CATEGORY_PI:
    case UTF8PROC_CATEGORY_PF:
    case UTF8PROC_CATEGORY_PO:
      return find(kNotPunctuation, c) == std::end(kNotPunctuation);
    default:
      return false;
  }
}

bool is_opaque_to_normalizer(uint32_t code_point) {
  if (code_point < std::begin(kOpaque)->first) return false;
  return find(kOpaque, code_point) != std::end(kOpaque);
}

}  // namespace convoke::unicode
