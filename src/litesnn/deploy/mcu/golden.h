/* What the self-test compares with; golden.c has it. */
#ifndef GOLDEN_H
#define GOLDEN_H

#include "snn.h"

#ifdef __cplusplus
extern "C" {
#endif

extern const int golden_count;
extern const snn_input golden_inputs[];
extern const snn_logit golden_logits[];
extern const uint32_t golden_spikes[];
extern const struct golden_shape {
    int channels, height, width;
} golden_shapes[]; /* of populations */

#ifdef __cplusplus
}
#endif

#endif
