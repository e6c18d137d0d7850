/* What the engine's parts share: a model, its plan, and the memory that it runs in. */
#ifndef LSNN_ENGINE_H
#define LSNN_ENGINE_H

#include "kernel.h"
#include "layout.h"
#include "litesnn.h"
#include "loader.h"
#include "plan.h"
#include "threads.h"

#define LSNN_LAYOUTS 4 /* batches of 1, 2, 4 and 8 inputs */

/* What a worker has for itself. */
typedef struct {
    void *memory;     /* that the others lie in */
    uint64_t *tile;   /* shifted copies; those of worker 0 are shared where all work on the same tile */
    uint32_t *events; /* inputs of one neuron that spike */
    int32_t *sums;    /* of a row of neurons */
    uint64_t event_count;
} lsnn_worker;

struct lsnn_engine {
    lsnn_model model;
    lsnn_plan plan;
    const lsnn_kernel_ops *ops;
    lsnn_pool *pool;
    lsnn_layout layouts[LSNN_LAYOUTS]; /* batch 0: not made yet */
    void *block_memory;
    uint8_t *block;          /* aligned to tiles */
    size_t block_bytes;
    lsnn_worker *workers;
    size_t worker_bytes;
    int8_t *quantize_table;  /* [C][256]; NULL for inputs of numbers */
    const uint8_t **channels; /* [inputs] planes of the group that is computed */
    int64_t *tap_bits;
    const uint8_t **planes;  /* [bundles of a population][channels] */
    lsnn_current *currents;
    uint8_t *ones;           /* [channels] planes that an identity's sums have */
    int32_t *zeros;          /* [channels] and what they are too large by */
    int64_t *totals;         /* [LSNN_MAX_BATCH][classes] of the readout */
    const lsnn_layout *current; /* whose masks are in the block */
};

/* groups.c: computes the sums of a group's bundles, for all timesteps of a batch. */
void lsnn_run_group(lsnn_engine *engine, const lsnn_layout *layout, const lsnn_group_plan *group);

/* run.c: makes the layout for 2^which inputs the current one, with its masks in place. Returns an lsnn_status. */
int lsnn_use_layout(lsnn_engine *engine, int which, const lsnn_layout **found);

#endif
