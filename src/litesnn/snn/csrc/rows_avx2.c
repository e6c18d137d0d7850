/* AVX2: 256-bit vectors. */
#define VECTOR_BYTES 32
#define ISA avx2
#define ISA_NAME "avx2"
#include "rows_all.inc"
