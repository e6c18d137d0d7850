/* AVX-512 (F, BW, DQ, VL): 512-bit vectors, in which a full adder is two instructions. */
#include <immintrin.h>

#define NAME(x) avx512_##x

typedef __m512i vec;

static inline vec vec_load(const void *from) { return _mm512_loadu_si512(from); }
static inline void vec_store(void *to, vec v) { _mm512_storeu_si512(to, v); }
static inline vec vec_zero(void) { return _mm512_setzero_si512(); }
static inline vec vec_and(vec a, vec b) { return _mm512_and_si512(a, b); }
static inline vec vec_xor(vec a, vec b) { return _mm512_xor_si512(a, b); }
static inline vec vec_not(vec a) { return _mm512_ternarylogic_epi64(a, a, a, 0x55); }
static inline vec vec_sum(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
static inline vec vec_carry(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0xE8); }
static inline vec vec_carry_not(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x71); }

#include "kernel.inc"

const lsnn_kernel_ops lsnn_kernel_avx512 = KERNEL_OPS("avx512", 18.0f, 3.0f);
