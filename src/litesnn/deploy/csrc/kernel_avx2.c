/* AVX2: 256-bit vectors. */
#include <immintrin.h>

#define NAME(x) avx2_##x

typedef __m256i vec;

static inline vec vec_load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
static inline void vec_store(void *to, vec v) { _mm256_storeu_si256((__m256i *)to, v); }
static inline vec vec_zero(void) { return _mm256_setzero_si256(); }
static inline vec vec_and(vec a, vec b) { return _mm256_and_si256(a, b); }
static inline vec vec_xor(vec a, vec b) { return _mm256_xor_si256(a, b); }
static inline vec vec_not(vec a) { return _mm256_xor_si256(a, _mm256_set1_epi64x(-1)); }
static inline vec vec_sum(vec a, vec b, vec c) { return vec_xor(a, vec_xor(b, c)); }
static inline vec vec_carry(vec a, vec b, vec c)
{
    return _mm256_or_si256(_mm256_and_si256(a, vec_xor(b, c)), _mm256_and_si256(b, c));
}
static inline vec vec_carry_not(vec a, vec b, vec c)
{
    return _mm256_or_si256(_mm256_and_si256(a, vec_xor(b, c)), vec_not(_mm256_or_si256(b, c)));
}

#include "kernel.inc"

const lsnn_kernel_ops lsnn_kernel_avx2 = KERNEL_OPS("avx2", 50.0f, 6.0f);
