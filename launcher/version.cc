#include "launcher/version.h"

namespace convoke {

const char* version() {
  return CONVOKE_VERSION;
}

}  // namespace convoke
