// Unicode's SpecialCasing.txt, unconditional part, as Python 3.11 has it (Unicode 14): characters
// whose upper case is more than one character. All other mappings come from utf8proc.
#include <algorithm>
#include <iterator>

#include "runtime/chat_template/python_text.h"

namespace convoke::jinja::python {
namespace {

struct SpecialCase {
  uint32_t code_point;
  const char* upper;
  const char* title;  ///< nullptr: one character
};

constexpr SpecialCase kSpecialCases[] = {
    {0xDF, "SS", "Ss"},
    {0x149, "\xCA\xBCN", "\xCA\xBCN"},
    {0x1F0, "J\xCC\x8C", "J\xCC\x8C"},
    {0x390, "\xCE\x99\xCC\x88\xCC\x81", "\xCE\x99\xCC\x88\xCC\x81"},
    {0x3B0, "\xCE\xA5\xCC\x88\xCC\x81", "\xCE\xA5\xCC\x88\xCC\x81"},
    {0x587, "\xD4\xB5\xD5\x92", "\xD4\xB5\xD6\x82"},
    {0x1E96, "H\xCC\xB1", "H\xCC\xB1"},
    {0x1E97, "T\xCC\x88", "T\xCC\x88"},
    {0x1E98, "W\xCC\x8A", "W\xCC\x8A"},
    {0x1E99, "Y\xCC\x8A", "Y\xCC\x8A"},
    {0x1E9A, "A\xCA\xBE", "A\xCA\xBE"},
    {0x1F50, "\xCE\xA5\xCC\x93", "\xCE\xA5\xCC\x93"},
    {0x1F52, "\xCE\xA5\xCC\x93\xCC\x80", "\xCE\xA5\xCC\x93\xCC\x80"},
    {0x1F54, "\xCE\xA5\xCC\x93\xCC\x81", "\xCE\xA5\xCC\x93\xCC\x81"},
    {0x1F56, "\xCE\xA5\xCC\x93\xCD\x82", "\xCE\xA5\xCC\x93\xCD\x82"},
    {0x1F80, "\xE1\xBC\x88\xCE\x99", nullptr},
    {0x1F81, "\xE1\xBC\x89\xCE\x99", nullptr},
    {0x1F82, "\xE1\xBC\x8A\xCE\x99", nullptr},
    {0x1F83, "\xE1\xBC\x8B\xCE\x99", nullptr},
    {0x1F84, "\xE1\xBC\x8C\xCE\x99", nullptr},
    {0x1F85, "\xE1\xBC\x8D\xCE\x99", nullptr},
    {0x1F86, "\xE1\xBC\x8E\xCE\x99", nullptr},
    {0x1F87, "\xE1\xBC\x8F\xCE\x99", nullptr},
    {0x1F88, "\xE1\xBC\x88\xCE\x99", nullptr},
    {0x1F89, "\xE1\xBC\x89\xCE\x99", nullptr},
    {0x1F8A, "\xE1\xBC\x8A\xCE\x99", nullptr},
    {0x1F8B, "\xE1\xBC\x8B\xCE\x99", nullptr},
    {0x1F8C, "\xE1\xBC\x8C\xCE\x99", nullptr},
    {0x1F8D, "\xE1\xBC\x8D\xCE\x99", nullptr},
    {0x1F8E, "\xE1\xBC\x8E\xCE\x99", nullptr},
    {0x1F8F, "\xE1\xBC\x8F\xCE\x99", nullptr},
    {0x1F90, "\xE1\xBC\xA8\xCE\x99", nullptr},
    {0x1F91, "\xE1\xBC\xA9\xCE\x99", nullptr},
    {0x1F92, "\xE1\xBC\xAA\xCE\x99", nullptr},
    {0x1F93, "\xE1\xBC\xAB\xCE\x99", nullptr},
    {0x1F94, "\xE1\xBC\xAC\xCE\x99", nullptr},
    {0x1F95, "\xE1\xBC\xAD\xCE\x99", nullptr},
    {0x1F96, "\xE1\xBC\xAE\xCE\x99", nullptr},
    {0x1F97, "\xE1\xBC\xAF\xCE\x99", nullptr},
    {0x1F98, "\xE1\xBC\xA8\xCE\x99", nullptr},
    {0x1F99, "\xE1\xBC\xA9\xCE\x99", nullptr},
    {0x1F9A, "\xE1\xBC\xAA\xCE\x99", nullptr},
    {0x1F9B, "\xE1\xBC\xAB\xCE\x99", nullptr},
    {0x1F9C, "\xE1\xBC\xAC\xCE\x99", nullptr},
    {0x1F9D, "\xE1\xBC\xAD\xCE\x99", nullptr},
    {0x1F9E, "\xE1\xBC\xAE\xCE\x99", nullptr},
    {0x1F9F, "\xE1\xBC\xAF\xCE\x99", nullptr},
    {0x1FA0, "\xE1\xBD\xA8\xCE\x99", nullptr},
    {0x1FA1, "\xE1\xBD\xA9\xCE\x99", nullptr},
    {0x1FA2, "\xE1\xBD\xAA\xCE\x99", nullptr},
    {0x1FA3, "\xE1\xBD\xAB\xCE\x99", nullptr},
    {0x1FA4, "\xE1\xBD\xAC\xCE\x99", nullptr},
    {0x1FA5, "\xE1\xBD\xAD\xCE\x99", nullptr},
    {0x1FA6, "\xE1\xBD\xAE\xCE\x99", nullptr},
    {0x1FA7, "\xE1\xBD\xAF\xCE\x99", nullptr},
    {0x1FA8, "\xE1\xBD\xA8\xCE\x99", nullptr},
    {0x1FA9, "\xE1\xBD\xA9\xCE\x99", nullptr},
    {0x1FAA, "\xE1\xBD\xAA\xCE\x99", nullptr},
    {0x1FAB, "\xE1\xBD\xAB\xCE\x99", nullptr},
    {0x1FAC, "\xE1\xBD\xAC\xCE\x99", nullptr},
    {0x1FAD, "\xE1\xBD\xAD\xCE\x99", nullptr},
    {0x1FAE, "\xE1\xBD\xAE\xCE\x99", nullptr},
    {0x1FAF, "\xE1\xBD\xAF\xCE\x99", nullptr},
    {0x1FB2, "\xE1\xBE\xBA\xCE\x99", "\xE1\xBE\xBA\xCD\x85"},
    {0x1FB3, "\xCE\x91\xCE\x99", nullptr},
    {0x1FB4, "\xCE\x86\xCE\x99", "\xCE\x86\xCD\x85"},
    {0x1FB6, "\xCE\x91\xCD\x82", "\xCE\x91\xCD\x82"},
    {0x1FB7, "\xCE\x91\xCD\x82\xCE\x99", "\xCE\x91\xCD\x82\xCD\x85"},
    {0x1FBC, "\xCE\x91\xCE\x99", nullptr},
    {0x1FC2, "\xE1\xBF\x8A\xCE\x99", "\xE1\xBF\x8A\xCD\x85"},
    {0x1FC3, "\xCE\x97\xCE\x99", nullptr},
    {0x1FC4, "\xCE\x89\xCE\x99", "\xCE\x89\xCD\x85"},
    {0x1FC6, "\xCE\x97\xCD\x82", "\xCE\x97\xCD\x82"},
    {0x1FC7, "\xCE\x97\xCD\x82\xCE\x99", "\xCE\x97\xCD\x82\xCD\x85"},
    {0x1FCC, "\xCE\x97\xCE\x99", nullptr},
    {0x1FD2, "\xCE\x99\xCC\x88\xCC\x80", "\xCE\x99\xCC\x88\xCC\x80"},
    {0x1FD3, "\xCE\x99\xCC\x88\xCC\x81", "\xCE\x99\xCC\x88\xCC\x81"},
    {0x1FD6, "\xCE\x99\xCD\x82", "\xCE\x99\xCD\x82"},
    {0x1FD7, "\xCE\x99\xCC\x88\xCD\x82", "\xCE\x99\xCC\x88\xCD\x82"},
    {0x1FE2, "\xCE\xA5\xCC\x88\xCC\x80", "\xCE\xA5\xCC\x88\xCC\x80"},
    {0x1FE3, "\xCE\xA5\xCC\x88\xCC\x81", "\xCE\xA5\xCC\x88\xCC\x81"},
    {0x1FE4, "\xCE\xA1\xCC\x93", "\xCE\xA1\xCC\x93"},
    {0x1FE6, "\xCE\xA5\xCD\x82", "\xCE\xA5\xCD\x82"},
    {0x1FE7, "\xCE\xA5\xCC\x88\xCD\x82", "\xCE\xA5\xCC\x88\xCD\x82"},
    {0x1FF2, "\xE1\xBF\xBA\xCE\x99", "\xE1\xBF\xBA\xCD\x85"},
    {0x1FF3, "\xCE\xA9\xCE\x99", nullptr},
    {0x1FF4, "\xCE\x8F\xCE\x99", "\xCE\x8F\xCD\x85"},
    {0x1FF6, "\xCE\xA9\xCD\x82", "\xCE\xA9\xCD\x82"},
    {0x1FF7, "\xCE\xA9\xCD\x82\xCE\x99", "\xCE\xA9\xCD\x82\xCD\x85"},
    {0x1FFC, "\xCE\xA9\xCE\x99", nullptr},
    {0xFB00, "FF", "Ff"},
    {0xFB01, "FI", "Fi"},
    {0xFB02, "FL", "Fl"},
    {0xFB03, "FFI", "Ffi"},
    {0xFB04, "FFL", "Ffl"},
    {0xFB05, "ST", "St"},
    {0xFB06, "ST", "St"},
    {0xFB13, "\xD5\x84\xD5\x86", "\xD5\x84\xD5\xB6"},
    {0xFB14, "\xD5\x84\xD4\xB5", "\xD5\x84\xD5\xA5"},
    {0xFB15, "\xD5\x84\xD4\xBB", "\xD5\x84\xD5\xAB"},
    {0xFB16, "\xD5\x8E\xD5\x86", "\xD5\x8E\xD5\xB6"},
    {0xFB17, "\xD5\x84\xD4\xBD", "\xD5\x84\xD5\xAD"}};

const SpecialCase* find_special(uint32_t code_point) {
  const auto* it = std::lower_bound(
      std::begin(kSpecialCases), std::end(kSpecialCases), code_point,
      [](const SpecialCase& row, uint32_t wanted) { return row.code_point < wanted; });
  return it != std::end(kSpecialCases) && it->code_point == code_point ? it : nullptr;
}

}  // namespace

const char* special_upper(uint32_t code_point) {
  const SpecialCase* row = find_special(code_point);
  return row == nullptr ? nullptr : row->upper;
}

const char* special_title(uint32_t code_point) {
  const SpecialCase* row = find_special(code_point);
  return row == nullptr ? nullptr : row->title;
}

}  // namespace convoke::jinja::python
