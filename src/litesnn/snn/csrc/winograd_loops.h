/* The inner loops of winograd.h, one implementation for each instruction set; all give the same results.
 *
 * With tiles of 4 × 4 inputs d, kernels w and gradients g of 2 × 2 outputs (× element by element):
 *
 *     V = Bᵀ d B,  U = G w Gᵀ,  output = Aᵀ [Σ_inputs U × V] A,  gradient of w = Gᵀ [Σ_tiles V × (A g Aᵀ)] G
 *
 * The sums are 16 matrix products, one for each of the POSITIONS in a transformed tile.
 */
#ifndef LSNN_WINOGRAD_LOOPS_H
#define LSNN_WINOGRAD_LOOPS_H

#include "winograd.h"

enum {
    LSNN_POSITIONS = 16,
    LSNN_TILES = 64,     /* tiles at once, whose transforms stay in the cache */
    LSNN_APART = 16      /* floats between the matrices of two positions, so that they lie in other cache lines */
};

typedef struct {
    const struct lsnn_winograd_loops *loops;
    lsnn_maps maps;
    lsnn_map x, other;       /* `other`: the output, or its gradient */
    const float *weights;    /* [outputs, inputs, 3, 3], or transposed */
    int32_t transposed;
    float *transformed;      /* U in panels of columns [panel][position][inputs][columns] */
    float *sums, *gradient;  /* sums of each worker [position][inputs][outputs], both rounded up to vectors */
    int32_t workers;         /* that have sums */
    float *scratch;          /* of each worker, `room` floats */
    int64_t room;
} lsnn_winograd_job;

typedef struct lsnn_winograd_loops {
    int64_t vector, panel; /* floats of a vector, and columns that a matrix product takes at once */
    /* U of the inputs first..last-1. */
    void (*transform)(const lsnn_winograd_job *job, int64_t first, int64_t last);
    /* The outputs of the tiles first..last-1. */
    void (*convolve)(const lsnn_winograd_job *job, int64_t first, int64_t last, float *scratch);
    /* What tiles first..last-1 add to a worker's sums. */
    void (*add)(const lsnn_winograd_job *job, int64_t first, int64_t last, float *scratch, float *sums);
    /* The gradient of the weights of inputs first..last-1 from the sums. */
    void (*finish)(const lsnn_winograd_job *job, int64_t first, int64_t last);
} lsnn_winograd_loops;

extern const lsnn_winograd_loops lsnn_winograd_avx2, lsnn_winograd_avx512;

static inline int64_t lsnn_up(int64_t count, int64_t to) { return (count + to - 1) / to * to; }

static inline int64_t lsnn_smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* Floats from one position to the next in a matrix of so many columns for every tile at once. */
static inline int64_t lsnn_position(int64_t columns) { return LSNN_TILES * columns + LSNN_APART; }

#endif
