/* Products of maps of spikes with matrices. Most values of such a map are 0, and what is multiplied by them is left out:
 * a product takes as long as there are events.
 *
 * Maps are those of training.h, of float: one row per pixel, P in all, and one column per channel.
 */
#ifndef LSNN_SPIKE_PRODUCTS_H
#define LSNN_SPIKE_PRODUCTS_H

#include "training.h"

/* Whether the instruction set in use has loops for the functions below. Portable C has none: they need vectors with a
 * fused multiply-add. */
LSNN_API int32_t lsnn_has_spike_products(void);

/* out = Σ_n map_n · matrix_n + dense · dense_matrix + bias, or out += ... where `adding`.
 *
 * Each map has so many `columns`; `matrix` [Σ columns, O] has their matrices one below the other. `dense` is one more
 * map, for which nothing is left out; it may have no columns. `bias` [O]. Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_combine(void *team, int64_t rows, int32_t maps, const lsnn_map *map, const int64_t *columns,
                              const float *matrix, const lsnn_map *dense, int64_t dense_columns,
                              const float *dense_matrix, const float *bias, int32_t adding, const lsnn_map *out,
                              int64_t outputs);

/* gram = xᵀ · y [I, O] for maps x [P, I] of spikes and y [P, O], and, unless NULL, `sums` = Σ_p x [I]. They are added up
 * over some rows, then in double for each worker, and then over the workers in their order. Returns 0, or 1: no memory.
 */
LSNN_API int32_t lsnn_gram(void *team, int64_t rows, const lsnn_map *x, int64_t inputs, const lsnn_map *y,
                           int64_t outputs, double *gram, double *sums);

#endif
