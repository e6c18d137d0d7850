/* AVX2 and FMA: 16 registers of 8 floats. */
#ifndef LSNN_VECTORS_AVX2_H
#define LSNN_VECTORS_AVX2_H

#include <immintrin.h>
#include <stdint.h>

#define ISA avx2
#define WIDTH 8
#define VECTOR __m256
#define ROWS 4
#define VECTORS 3
static const int32_t first_ones[16] = {-1, -1, -1, -1, -1, -1, -1, -1, 0, 0, 0, 0, 0, 0, 0, 0};
#define FIRST(count) _mm256_loadu_si256((const __m256i *)(first_ones + 8 - (count)))
#define LOAD(from) _mm256_loadu_ps(from)
#define LOAD_PART(from, count) _mm256_maskload_ps(from, FIRST(count))
#define STORE(to, v) _mm256_storeu_ps(to, v)
#define STREAM(to, v) _mm256_stream_ps(to, v)
#define STREAM_END() _mm_sfence()
#define STORE_PART(to, v, count) _mm256_maskstore_ps(to, FIRST(count), v)
#define STORE_HALVES(low, high, v)                                                                                     \
    do {                                                                                                               \
        _mm_storeu_ps(low, _mm256_castps256_ps128(v));                                                                 \
        _mm_storeu_ps(high, _mm256_extractf128_ps(v, 1));                                                              \
    } while (0)
#define FILL(x) _mm256_set1_ps(x)
#define MULTIPLY_ADD(a, b, c) _mm256_fmadd_ps(a, b, c)
/* Appends the values of v that are not 0 to `values`, and `index` + their places to `places`; `count` of them are there. */
#define APPEND(v, index, values, places, count)                                                                        \
    do {                                                                                                               \
        unsigned other = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(v, _mm256_setzero_ps(), _CMP_NEQ_UQ));             \
        float all[8];                                                                                                  \
        _mm256_storeu_ps(all, v);                                                                                      \
        for (; other; other &= other - 1, (count)++) {                                                                 \
            const int place = (int)_tzcnt_u32(other);                                                                  \
            (values)[count] = all[place];                                                                              \
            (places)[count] = (index) + place;                                                                         \
        }                                                                                                              \
    } while (0)

#endif
