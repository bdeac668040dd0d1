#include "kernels/cpu/attention_tiles.h"
