/* What a training step does besides convolutions, in as few passes over memory as it takes.
 *
 * Maps of spikes and currents are matrices of one row per pixel and one column per channel, with the pixels of all
 * timesteps one after another: what torch calls channels_last. `stride` is the number of elements from one row to the
 * next, so that a map may be some columns of a wider one. T timesteps, Q pixels of one timestep (batch · height ·
 * width), P = T · Q, C channels, N terms of a node.
 *
 * Every function exists for float and for double, with the same name and the ending _f or _d; litesnn.snn.kernels says
 * in torch what each computes. Sums over rows are added up in double for each worker and then over the workers in
 * their order: the same numbers for the same number of workers.
 */
#ifndef LSNN_TRAINING_H
#define LSNN_TRAINING_H

#include <stddef.h>
#include <stdint.h>

#if defined(_WIN32)
#define LSNN_API __declspec(dllexport)
#elif defined(__GNUC__)
#define LSNN_API __attribute__((visibility("default")))
#else
#define LSNN_API
#endif

#define LSNN_TRAINING_ABI 8 /* raised whenever an LSNN_API function of any header in this folder changes */

/* Columns of a matrix. */
typedef struct {
    void *values;   /* float or double */
    int64_t stride; /* from row to row, in elements */
} lsnn_map;

/* A LIF neuron: s = u > threshold; ds/du as in litesnn.snn.membrane. With hard reset u = leak · u · (1 − s) + x, and with
 * soft reset, where `soft` is not 0, u = leak · u − reset · s + x. With more than one of `levels` spikes are graded: s is
 * the number of threshold, threshold + 1, … that u is above, any spike resets, and no gradient goes through the reset. */
typedef struct {
    double leak, threshold, sharpness, reset;
    int32_t soft, levels;
} lsnn_neuron;

LSNN_API int32_t lsnn_training_abi(void);

/* The name of the n-th instruction set that this CPU has and this library knows, widest first; NULL after the last. */
LSNN_API const char *lsnn_training_kernel(int32_t n);

/* Take the n-th instruction set from now on, in the whole process. Results do not depend on it. */
LSNN_API void lsnn_training_use(int32_t n);

/* Runs work(data) on so many threads at once and waits for all: GOMP_parallel of an OpenMP library. */
typedef void lsnn_fork(void (*work)(void *data), void *data, unsigned threads, unsigned flags);

/* Workers for the functions below; one caller at a time. `fork` brings the threads of an OpenMP library that already
 * has some (two sets of threads would get in each other's way); NULL: threads of their own. Returns NULL: no memory. */
LSNN_API void *lsnn_training_start(int32_t workers, lsnn_fork *fork);
LSNN_API void lsnn_training_stop(void *team);

#define LSNN_TRAINING_FUNCTIONS(real, end)                                                                             \
    /* Mean and variance (divisor P) of every column of z [P, C]; `scratch`: 2 · C doubles for each worker. */         \
    LSNN_API void lsnn_moments_##end(void *team, int64_t rows, int64_t columns, const lsnn_map *z, double *scratch,    \
                                     real *mean, real *variance);                                                      \
                                                                                                                       \
    /* One node: x = bias + Σ_n scale_n · term_n, then LIF. `scales` [N, C]; out: spikes [P, C], and their means over   \
     * all rows [C]. `scratch`: C doubles for each worker. */                                                          \
    LSNN_API void lsnn_fire_##end(void *team, int64_t steps, int64_t rows, int64_t columns, int32_t terms,             \
                                  const lsnn_map *term, const real *scales, const real *bias,                          \
                                  const lsnn_neuron *neuron, const lsnn_map *spikes, double *scratch, real *means);    \
                                                                                                                       \
    /* Its gradient g = d loss / dx [P, C], from that of its spikes, which is the sum of maps, the sum of `scaled` more \
     * (which follow) times `factors` [scaled, C], and, if there are any of those, of_spikes[0] · s + of_spikes[1]     \
     * [2, C] for the spikes s. `sums` [1 + M, C]: Σ g, and Σ g · (term_m − centre_m) of the first M terms for the      \
     * `centres` [M, C]. Membranes are computed again from the terms. `scratch`: (1 + M) · C doubles for each worker. */\
    LSNN_API void lsnn_fire_backward_##end(void *team, int64_t steps, int64_t rows, int64_t columns, int32_t terms,    \
                                           const lsnn_map *term, const real *scales, const real *bias,                 \
                                           const lsnn_neuron *neuron, int32_t gradients, int32_t scaled,               \
                                           const lsnn_map *gradient, const real *factors, const real *of_spikes,       \
                                           int32_t centred, const real *centres, const lsnn_map *g,                    \
                                           double *scratch, double *sums);                                             \
                                                                                                                       \
    /* out = a · g + b · z + c for maps [P, C] and a, b, c [C]; out may be z. */                                       \
    LSNN_API void lsnn_spread_##end(void *team, int64_t rows, int64_t columns, const lsnn_map *g, const lsnn_map *z,   \
                                    const real *a, const real *b, const real *c, const lsnn_map *out);                 \
                                                                                                                       \
    /* LIF alone, M neurons: currents, membranes and spikes [T, M]; `step` is M, or 0 where the current is constant. */\
    LSNN_API void lsnn_lif_##end(void *team, int64_t steps, int64_t neurons, const real *currents, int64_t step,       \
                                 const lsnn_neuron *neuron, real *membranes, real *spikes);                            \
    LSNN_API void lsnn_lif_backward_##end(void *team, int64_t steps, int64_t neurons, const real *gradient,            \
                                          const lsnn_neuron *neuron, const real *membranes, real *g);

LSNN_TRAINING_FUNCTIONS(float, f)
LSNN_TRAINING_FUNCTIONS(double, d)

#endif
