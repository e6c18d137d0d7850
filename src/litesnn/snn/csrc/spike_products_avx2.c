#include "vectors_avx2.h"
#include "spike_products.inc"
