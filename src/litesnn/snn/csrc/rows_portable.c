#define ISA portable
#define ISA_NAME "portable"
#include "rows_all.inc"
