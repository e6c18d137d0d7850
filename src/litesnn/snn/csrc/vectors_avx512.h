/* AVX-512: 32 registers of 16 floats. */
#ifndef LSNN_VECTORS_AVX512_H
#define LSNN_VECTORS_AVX512_H

#include <immintrin.h>
#include <stdint.h>

#define ISA avx512
#define WIDTH 16
#define VECTOR __m512
#define ROWS 8
#define VECTORS 3
#define FIRST(count) ((__mmask16)((1u << (count)) - 1u))
#define LOAD(from) _mm512_loadu_ps(from)
#define LOAD_PART(from, count) _mm512_maskz_loadu_ps(FIRST(count), from)
#define STORE(to, v) _mm512_storeu_ps(to, v)
#define STREAM(to, v) _mm512_stream_ps(to, v)
#define STREAM_END() _mm_sfence()
#define STORE_PART(to, v, count) _mm512_mask_storeu_ps(to, FIRST(count), v)
#define STORE_HALVES(low, high, v)                                                                                     \
    do {                                                                                                               \
        _mm256_storeu_ps(low, _mm512_castps512_ps256(v));                                                              \
        _mm256_storeu_ps(high, _mm512_extractf32x8_ps(v, 1));                                                          \
    } while (0)
#define FILL(x) _mm512_set1_ps(x)
#define MULTIPLY_ADD(a, b, c) _mm512_fmadd_ps(a, b, c)
/* Appends the values of v that are not 0 to `values`, and `index` + their places to `places`; `count` of them are there. */
#define APPEND(v, index, values, places, count)                                                                        \
    do {                                                                                                               \
        const __mmask16 other = _mm512_cmp_ps_mask(v, _mm512_setzero_ps(), _CMP_NEQ_UQ);                               \
        const __m512i all = _mm512_add_epi32(_mm512_set1_epi32(index), _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \
                                                                                         10, 11, 12, 13, 14, 15));     \
        _mm512_storeu_ps((values) + (count), _mm512_maskz_compress_ps(other, v));                                      \
        _mm512_storeu_si512((places) + (count), _mm512_maskz_compress_epi32(other, all));                              \
        (count) += _mm_popcnt_u32(other);                                                                              \
    } while (0)

#endif
