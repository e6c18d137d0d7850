#include "vectors_avx2.h"
#include "winograd.inc"
