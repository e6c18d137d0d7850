#include "vectors_avx512.h"
#include "spike_products.inc"
