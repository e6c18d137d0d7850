/* AVX2: 256-bit vectors. */
#define VECTOR_BYTES 32
#define ISA avx2
#define ISA_NAME "avx2"
#define WINOGRAD lsnn_winograd_avx2
#define SPIKE_PRODUCTS &lsnn_products_avx2
#include "spike_products_loops.h"
#include "winograd_loops.h"
#include "rows_all.inc"
