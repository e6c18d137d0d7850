#define ISA avx512
#define ISA_NAME "avx512"
#include "rows_all.inc"
