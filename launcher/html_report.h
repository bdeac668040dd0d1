// A comparison of drafters as one self-contained HTML page: tables and charts, light and dark, for
// screens and paper, without scripts or anything from elsewhere. The text is well-formed XML.
#pragma once

#include <string>

#include "launcher/bench_report.h"

namespace convoke {

std::string html_report(const BenchReport& report);

}  // namespace convoke
