// Plain tables and numbers for people.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace convoke {

/// Columns are as wide as their widest cell, two spaces apart; the first is flush left, the others
/// flush right. Widths count Unicode characters.
class Table {
 public:
  explicit Table(std::vector<std::string> header);
  void add_row(std::vector<std::string> cells);  ///< missing cells at the end are empty
  std::string text() const;                      ///< every line ends with '\n'

 private:
  std::vector<std::vector<std::string>> rows_;
};

std::string format_count(double count);               ///< 999, 12.3 k, 4.56 M, 7.89 G
std::string format_bytes(double bytes);               ///< 512 B, 49.1 MiB, 2.30 GiB
std::string format_duration(double seconds);          ///< 3.2 s, 4:05, 1:02:03
std::string format_share(double part, double whole);  ///< "37.5 %"; "-" when the whole is 0

}  // namespace convoke
