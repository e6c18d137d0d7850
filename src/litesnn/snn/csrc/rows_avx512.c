/* AVX-512: 512-bit vectors. */
#define VECTOR_BYTES 64
#define ISA avx512
#define ISA_NAME "avx512"
#include "rows_all.inc"
