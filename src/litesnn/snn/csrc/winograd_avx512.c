#include "vectors_avx512.h"
#include "winograd.inc"
