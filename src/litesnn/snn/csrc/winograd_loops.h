/* The inner loops of winograd.h, one implementation for each instruction set and scheme. All instruction sets give the
 * same results.
 *
 * With tiles of N × N outputs, the inputs d around them, kernels w and gradients g of the outputs:
 *
 *     V = Bᵀ d B,  U = G w Gᵀ,  output = Aᵀ [Σ_inputs U × V] A,  gradient of w = Gᵀ [Σ_tiles V × (A g Aᵀ)] G
 *
 * where × is element by element: the sums are matrix products, one for each position in a transformed tile, of which
 * there are as many as pixels in d. The gradient of the input is the output of a convolution, too: with a stride of 1
 * of the same kind, with the kernels turned round.
 */
#ifndef LSNN_WINOGRAD_LOOPS_H
#define LSNN_WINOGRAD_LOOPS_H

#include "sizes.h"
#include "winograd.h"

enum { LSNN_SCHEMES = 3, LSNN_TAPS = 9 };

/* The maps that are read or written: `stride` floats from pixel to pixel. */
typedef struct {
    float *values;
    int64_t stride, channels, height, width;
} lsnn_sheet;

/* How many tiles a map has next to and above each other. */
typedef struct {
    int64_t across, down;
} lsnn_grid;

typedef struct {
    const struct lsnn_winograd_loops *loops;
    lsnn_sheet x, other; /* `other`: the output, or its gradient */
    lsnn_grid grid;
    int64_t images;
    int32_t streaming;      /* whether `other` is too large for a cache, and made of whole lines of one */
    const float *weights;   /* [outputs, inputs, 3, 3], or `transposed` */
    int32_t transposed;
    float *transformed;     /* U in panels of columns [panel][position][inputs][columns] */
    float *sums;            /* of each worker [position][inputs][outputs], both rounded up to vectors */
    int32_t workers;        /* that have sums */
    const lsnn_normalised *normalised; /* what `other` still has to go through, if anything */
    float *gradient;        /* [outputs, all_inputs, 3, 3], from the first of the inputs on */
    int64_t all_inputs;
    double *moments;        /* of each worker [2, outputs]; NULL: nobody asks for them */
    float *scratch;         /* of each worker, `room` floats */
    int64_t room;
} lsnn_winograd_job;

typedef struct lsnn_winograd_loops {
    int64_t side, stride;  /* N, and that of the convolution */
    int64_t at_once;       /* tiles, whose transforms stay in the cache */
    int64_t vector, panel; /* floats of a vector, and columns that a matrix product takes at once */
    /* U of the inputs first..last-1. */
    void (*transform)(const lsnn_winograd_job *job, int64_t first, int64_t last);
    /* The outputs of the tiles first..last-1, and those of the convolution back to the input. Adds Σ z and Σ z² of every
     * output channel to `moments`, unless NULL. */
    void (*convolve)(const lsnn_winograd_job *job, int64_t first, int64_t last, float *scratch, double *moments);
    void (*convolve_back)(const lsnn_winograd_job *job, int64_t first, int64_t last, float *scratch, double *moments);
    /* What tiles first..last-1 add to a worker's sums. */
    void (*add)(const lsnn_winograd_job *job, int64_t first, int64_t last, float *scratch, float *sums);
    /* The gradient of the weights of inputs first..last-1 from the sums. */
    void (*finish)(const lsnn_winograd_job *job, int64_t first, int64_t last);
} lsnn_winograd_loops;

extern const lsnn_winograd_loops lsnn_winograd_avx2[LSNN_SCHEMES], lsnn_winograd_avx512[LSNN_SCHEMES];

/* Floats from one position to the next in a matrix of so many columns for the tiles at once. A line of the cache lies
 * between them: else all positions might fall into the same few lines. */
static inline int64_t lsnn_position(int64_t at_once, int64_t columns) { return at_once * columns + 16; }

#endif
