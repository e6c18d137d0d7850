/* AVX-512: 512-bit vectors. */
#define VECTOR_BYTES 64
#define ISA avx512
#define ISA_NAME "avx512"
#define WINOGRAD lsnn_winograd_avx512
#define SPIKE_PRODUCTS &lsnn_products_avx512
#include "spike_products_loops.h"
#include "winograd_loops.h"
#include "rows_all.inc"
