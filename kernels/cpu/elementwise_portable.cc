#include "kernels/cpu/elementwise_rows.h"
