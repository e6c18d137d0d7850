/* The plain kernel: vectors of 16 bytes, which compilers have for every target, or none. */
#if defined(__GNUC__)
#define VECTOR_BYTES 16
#else
#define VECTOR_BYTES 0
#endif
#define ISA portable
#define ISA_NAME "portable"
#define WINOGRAD NULL
#define SPIKE_PRODUCTS NULL
#include "rows_all.inc"
