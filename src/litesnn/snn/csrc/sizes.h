/* Arithmetic with sizes, and memory that begins with a line of the cache. */
#ifndef LSNN_SIZES_H
#define LSNN_SIZES_H

#include <stdint.h>
#include <stdlib.h>

enum { LSNN_LINE = 64 /* bytes of a line of the cache: no two workers should write to the same one */ };

/* `count` rounded up to a multiple. */
static inline int64_t lsnn_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

static inline int64_t lsnn_smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* So many bytes from the beginning of a line on, in a `piece` to free; NULL: no memory. */
static inline void *lsnn_lines(int64_t bytes, void **piece)
{
    *piece = malloc((size_t)bytes + LSNN_LINE);
    return *piece ? (void *)(((uintptr_t)*piece + LSNN_LINE - 1) / LSNN_LINE * LSNN_LINE) : NULL;
}

#endif
