/* What a model computes, written once more in the plainest way: loops over neurons and weights, after the equations of
 * litesnn.deploy.reference. The engine is compared with this. */
#ifndef FUZZ_MEANING_H
#define FUZZ_MEANING_H

#include "loader.h"

typedef struct {
    float *logits;    /* [T, count, classes] */
    uint8_t **spikes; /* [populations] of [T, count, C, H, W] */
} meaning;

/* `inputs` [count, C, H, W] or [count, T, C, H, W] as lsnn_run takes them, finite numbers. */
meaning meaning_of(const lsnn_model *model, const void *inputs, int32_t count);
void meaning_free(const lsnn_model *model, meaning *made);

/* Multiplications for one input, at most INT64_MAX / 4. */
int64_t meaning_cost(const lsnn_model *model);

#endif
