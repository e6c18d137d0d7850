/* AVX-512: 32 registers of 16 floats. */
#include <immintrin.h>

#define ISA avx512
#define WIDTH 16
#define VECTOR __m512
#define ROWS 8
#define VECTORS 3
#define FIRST(count) ((__mmask16)((1u << (count)) - 1u))
#define LOAD(from) _mm512_loadu_ps(from)
#define LOAD_PART(from, count) _mm512_maskz_loadu_ps(FIRST(count), from)
#define STORE(to, v) _mm512_storeu_ps(to, v)
#define STORE_PART(to, v, count) _mm512_mask_storeu_ps(to, FIRST(count), v)
#define STORE_HALVES(low, high, v)                                                                                     \
    do {                                                                                                               \
        _mm256_storeu_ps(low, _mm512_castps512_ps256(v));                                                              \
        _mm256_storeu_ps(high, _mm512_extractf32x8_ps(v, 1));                                                          \
    } while (0)
#define FILL(x) _mm512_set1_ps(x)
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
#include "winograd.inc"
