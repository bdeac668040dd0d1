#include <cstdio>

#include "launcher/version.h"

int main() {
  std::printf("convoke %s\n", convoke::version());
  return 0;
}
