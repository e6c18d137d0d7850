/* The inner loops of training.h over the rows first..last-1, one implementation for each instruction set.
 *
 * All are made from rows.inc, whose loops over columns compilers turn into vectors; sums over rows keep one accumulator
 * for each column, so that the width of the vectors changes no result.
 */
#ifndef LSNN_ROWS_H
#define LSNN_ROWS_H

#include "training.h"

/* What training.h says of the arguments of a node, of maps alone, and of LIF alone. */
#define LSNN_ROWS_OPS(real, end)                                                                                       \
    typedef struct {                                                                                                   \
        int64_t steps, rows, columns;                                                                                  \
        int32_t terms;                                                                                                 \
        int32_t gradients, scaled, centred; /* backwards only; `gradient`: gradients and then scaled maps */           \
        const lsnn_map *term, *gradient;                                                                               \
        const real *scales, *bias;                                                                                     \
        const real *centres, *factors, *of_spikes; /* backwards only */                                                \
        const lsnn_neuron *neuron;                                                                                     \
        lsnn_map out; /* spikes; backwards: g; membranes until then */                                                 \
    } lsnn_node_##end;                                                                                                 \
                                                                                                                       \
    typedef struct {                                                                                                   \
        int64_t rows, columns;                                                                                         \
        lsnn_map g, z, out;                                                                                            \
        const real *a, *b, *c; /* for moments, b are the shifts */                                                     \
    } lsnn_maps_##end;                                                                                                 \
                                                                                                                       \
    typedef struct {                                                                                                   \
        int64_t steps, neurons, step;                                                                                  \
        const real *currents;                                                                                          \
        const lsnn_neuron *neuron;                                                                                     \
        real *membranes, *spikes;                                                                                      \
    } lsnn_alone_##end;                                                                                                \
                                                                                                                       \
    /* `work` belongs to the worker and gets what is added up over its rows: moments [2, C], spikes [C] and sums       \
     * [1 + centred, C]. */                                                                                            \
    typedef struct {                                                                                                   \
        void (*moments)(const lsnn_maps_##end *maps, int64_t first, int64_t last, double *work);                       \
        void (*fire)(const lsnn_node_##end *node, int64_t first, int64_t last, double *work);                          \
        void (*fire_backward)(const lsnn_node_##end *node, int64_t first, int64_t last, double *work);                 \
        void (*spread)(const lsnn_maps_##end *maps, int64_t first, int64_t last);                                      \
        void (*lif)(const lsnn_alone_##end *alone, int64_t first, int64_t last);                                       \
        void (*lif_backward)(const lsnn_alone_##end *alone, int64_t first, int64_t last);                              \
    } lsnn_rows_##end;

LSNN_ROWS_OPS(float, f)
LSNN_ROWS_OPS(double, d)

typedef struct {
    const char *name;
    const lsnn_rows_f *f;
    const lsnn_rows_d *d;
    const struct lsnn_winograd_loops *winograd; /* NULL: there are none */
    const struct lsnn_products_loops *products; /* NULL: there are none */
} lsnn_rows;

extern const lsnn_rows lsnn_rows_portable, lsnn_rows_avx2, lsnn_rows_avx512;

/* The n-th that this CPU can run, widest first; NULL after the last. */
const lsnn_rows *lsnn_rows_at(int32_t n);

const lsnn_rows *lsnn_rows_in_use(void);

#endif
