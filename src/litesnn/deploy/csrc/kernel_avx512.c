/* AVX-512 (F, BW, DQ, VL): 512-bit vectors, in which a full adder is two instructions. */
#include <immintrin.h>

#include "kernel.h"

#define NAME(x) avx512_##x
#define AT_ONCE 1

typedef __m512i vec;

static inline vec vec_load(const void *from) { return _mm512_loadu_si512(from); }
static inline void vec_store(void *to, vec v) { _mm512_storeu_si512(to, v); }
static inline vec vec_zero(void) { return _mm512_setzero_si512(); }
static inline vec vec_and(vec a, vec b) { return _mm512_and_si512(a, b); }
static inline vec vec_xor(vec a, vec b) { return _mm512_xor_si512(a, b); }
static inline vec vec_not(vec a) { return _mm512_ternarylogic_epi64(a, a, a, 0x55); }
static inline vec vec_add_bytes(vec a, vec b) { return _mm512_add_epi8(a, b); }
static inline vec vec_fill(uint64_t word) { return _mm512_set1_epi64((long long)word); }
static inline vec vec_shift_left(vec a, int n) { return _mm512_slli_epi64(a, (unsigned)n); }
static inline vec vec_shift_right(vec a, int n) { return _mm512_srli_epi64(a, (unsigned)n); }
static inline vec vec_sum(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0x96); }
static inline vec vec_carry(vec a, vec b, vec c) { return _mm512_ternarylogic_epi64(a, b, c, 0xE8); }

/* The written meaning of LIF and LIF_SOFT is in kernel.inc. `soft` is known to the compiler. */
INLINE void avx512_step(float *u, const float *x, const float *bias, float leak, float threshold, float reset,
                        const int soft, uint8_t bit, uint8_t *spikes)
{
    const __m512 leaks = _mm512_set1_ps(leak), thresholds = _mm512_set1_ps(threshold), resets = _mm512_set1_ps(reset);
    __m512i out = _mm512_loadu_si512(spikes);
    uint64_t fired = 0;
    int i;
    for (i = 0; i < LSNN_TILE; i += 16) {
        const __m512 current = _mm512_add_ps(_mm512_loadu_ps(x + i), _mm512_loadu_ps(bias + i));
        const __m512 v = _mm512_add_ps(_mm512_loadu_ps(u + i), current);
        const __mmask16 below = _mm512_cmp_ps_mask(v, thresholds, _CMP_LE_OQ);
        if (soft) {
            const __m512 kept = _mm512_mul_ps(leaks, v);
            _mm512_storeu_ps(u + i, _mm512_mask_sub_ps(kept, (__mmask16)~below, kept, resets));
        } else
            _mm512_storeu_ps(u + i, _mm512_maskz_mul_ps(below, leaks, v));
        fired |= (uint64_t)(uint16_t)~below << i;
    }
    out = _mm512_or_si512(out, _mm512_maskz_set1_epi8(fired, (char)bit));
    _mm512_storeu_si512(spikes, out);
}

static inline void avx512_lif(float *u, const float *x, const float *bias, float leak, float threshold, uint8_t bit,
                              uint8_t *spikes)
{
    avx512_step(u, x, bias, leak, threshold, 0.0f, 0, bit, spikes);
}

static inline void avx512_lif_soft(float *u, const float *x, const float *bias, float leak, float threshold,
                                   float reset, uint8_t bit, uint8_t *spikes)
{
    avx512_step(u, x, bias, leak, threshold, reset, 1, bit, spikes);
}
#define LIF avx512_lif
#define LIF_SOFT avx512_lif_soft

#include "kernel.inc"

const lsnn_kernel_ops lsnn_kernel_avx512 = KERNEL_OPS("avx512", 18.0f, 3.0f);
