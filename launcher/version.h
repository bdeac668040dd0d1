#pragma once

namespace convoke {

const char* version();  ///< "0.1.0"

}  // namespace convoke
