/* AVX2: 256-bit vectors. */
#include <immintrin.h>

#include "kernel.h"

#define NAME(x) avx2_##x
#define AT_ONCE 1

typedef __m256i vec;

static inline vec vec_load(const void *from) { return _mm256_loadu_si256((const __m256i *)from); }
static inline void vec_store(void *to, vec v) { _mm256_storeu_si256((__m256i *)to, v); }
static inline vec vec_zero(void) { return _mm256_setzero_si256(); }
static inline vec vec_and(vec a, vec b) { return _mm256_and_si256(a, b); }
static inline vec vec_xor(vec a, vec b) { return _mm256_xor_si256(a, b); }
static inline vec vec_not(vec a) { return _mm256_xor_si256(a, _mm256_set1_epi64x(-1)); }
static inline vec vec_add_bytes(vec a, vec b) { return _mm256_add_epi8(a, b); }
static inline vec vec_fill(uint64_t word) { return _mm256_set1_epi64x((long long)word); }
static inline vec vec_shift_left(vec a, int n) { return _mm256_slli_epi64(a, n); }
static inline vec vec_shift_right(vec a, int n) { return _mm256_srli_epi64(a, n); }
static inline vec vec_sum(vec a, vec b, vec c) { return vec_xor(a, vec_xor(b, c)); }
static inline vec vec_carry(vec a, vec b, vec c)
{
    return _mm256_or_si256(_mm256_and_si256(a, vec_xor(b, c)), _mm256_and_si256(b, c));
}

/* The written meaning of LIF and LIF_SOFT is in kernel.inc. `soft` is known to the compiler. */
INLINE void avx2_step(float *u, const float *x, const float *bias, float leak, float threshold, float reset,
                      const int soft, uint8_t bit, uint8_t *spikes)
{
    const __m256 leaks = _mm256_set1_ps(leak), thresholds = _mm256_set1_ps(threshold), resets = _mm256_set1_ps(reset);
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7), bits = _mm256_set1_epi8((char)bit);
    int at, i;
    for (at = 0; at < LSNN_TILE; at += 32) {
        __m256i fired[4], out;
        for (i = 0; i < 4; i++) {
            const int n = at + 8 * i;
            const __m256 current = _mm256_add_ps(_mm256_loadu_ps(x + n), _mm256_loadu_ps(bias + n));
            const __m256 v = _mm256_add_ps(_mm256_loadu_ps(u + n), current);
            const __m256 above = _mm256_cmp_ps(v, thresholds, _CMP_GT_OQ);
            const __m256 kept = _mm256_mul_ps(leaks, v);
            _mm256_storeu_ps(u + n, soft ? _mm256_sub_ps(kept, _mm256_and_ps(above, resets))
                                         : _mm256_andnot_ps(above, kept));
            fired[i] = _mm256_castps_si256(above);
        }
        out = _mm256_packs_epi16(_mm256_packs_epi32(fired[0], fired[1]), _mm256_packs_epi32(fired[2], fired[3]));
        out = _mm256_and_si256(_mm256_permutevar8x32_epi32(out, order), bits);
        out = _mm256_or_si256(out, _mm256_loadu_si256((const __m256i *)(const void *)(spikes + at)));
        _mm256_storeu_si256((__m256i *)(void *)(spikes + at), out);
    }
}

static inline void avx2_lif(float *u, const float *x, const float *bias, float leak, float threshold, uint8_t bit,
                            uint8_t *spikes)
{
    avx2_step(u, x, bias, leak, threshold, 0.0f, 0, bit, spikes);
}

static inline void avx2_lif_soft(float *u, const float *x, const float *bias, float leak, float threshold, float reset,
                                 uint8_t bit, uint8_t *spikes)
{
    avx2_step(u, x, bias, leak, threshold, reset, 1, bit, spikes);
}
#define LIF avx2_lif
#define LIF_SOFT avx2_lif_soft

#include "kernel.inc"

const lsnn_kernel_ops lsnn_kernel_avx2 = KERNEL_OPS("avx2", 42.0f, 4.0f);
