/* The inner loops of spike_products.h, one implementation for each instruction set. All give the same results. */
#ifndef LSNN_SPIKE_PRODUCTS_LOOPS_H
#define LSNN_SPIKE_PRODUCTS_LOOPS_H

#include "spike_products.h"

/* Matrices of `outputs` columns are kept in panels of columns [panel][row][columns], all but the last of as many
 * columns as a matrix product takes at once, the last rounded up to vectors. */
typedef struct {
    const struct lsnn_products_loops *loops;
    int64_t rows, inputs, outputs;
    int32_t maps;
    const lsnn_map *map;      /* whose columns are the inputs, one after another */
    const int64_t *columns;   /* of each map */
    const float *matrix;      /* [inputs, outputs] in panels */
    lsnn_map dense;           /* one more map, of few zeros */
    int64_t dense_inputs;
    const float *dense_matrix;
    const float *bias;        /* [outputs], rounded up to vectors */
    int32_t adding;           /* to what is there */
    lsnn_map other;           /* what is written, or the right-hand side of a gram matrix */
    int32_t summing;          /* whether the sums of the inputs are asked for, too */
    char *scratch;            /* of each worker, `room` bytes */
    int64_t room;
} lsnn_products_job;

typedef struct lsnn_products_loops {
    int64_t vector, panel; /* floats of a vector, and columns that a matrix product takes at once */
    int64_t at_once;       /* rows whose events are looked up together */
    /* Over the rows first..last-1. `scratch` has room for the events of the rows at once. */
    void (*combine)(const lsnn_products_job *job, int64_t first, int64_t last, char *scratch);
    /* Adds the gram matrix to `totals` [inputs, outputs], and, if `summing`, those of the inputs behind them.
     * `sums`, the same in panels, are 0 before and after. */
    void (*gram)(const lsnn_products_job *job, int64_t first, int64_t last, char *scratch, float *sums, double *totals);
} lsnn_products_loops;

extern const lsnn_products_loops lsnn_products_avx2, lsnn_products_avx512;

#endif
