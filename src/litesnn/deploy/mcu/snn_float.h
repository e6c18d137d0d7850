/* The neuron's arithmetic in float32, one rounding per operation: build with -ffp-contract=off. */
#ifndef SNN_FLOAT_H
#define SNN_FLOAT_H

#include <float.h>
#include <stdint.h>

#include "model.h"

#if defined(__FAST_MATH__) || FLT_EVAL_METHOD != 0
#error "every float operation must round to float32 once: no -ffast-math, no x87"
#endif

typedef float snn_real;  /* currents and membranes */
typedef float snn_scale; /* scales and biases */
typedef float snn_logit;

/* What is left of a membrane after a timestep, and what a spike takes from it: `reset` if `soft`, else all. */
typedef struct {
    snn_real leak, reset;
    uint8_t soft;
} snn_neuron;

#define SNN_NEURON {SNN_LEAK, SNN_RESET, SNN_SOFT_RESET}

#ifndef __cplusplus /* what follows is the runtime's, which is C */

/* The current of a sum of weights. */
static inline snn_real snn_current(snn_scale scale, unsigned shift, int32_t sum) {
    (void)shift;
    return scale * (float)sum;
}

static inline snn_real snn_bias(snn_scale bias, unsigned shift) {
    (void)shift;
    return bias;
}

/* The membrane after one more step with the current x; `spiked` says whether the neuron fired in the step before. */
static inline snn_real snn_membrane(const snn_neuron *neuron, snn_real u, int spiked, snn_real x) {
    snn_real kept = neuron->leak * u;
    if (spiked) {
        kept = kept - neuron->reset;
        return neuron->soft ? kept + x : x;
    }
    return kept + x;
}

/* y_t of the accumulator `total` of the steps 1 to t. */
static inline snn_logit snn_read(snn_scale scale, unsigned shift, snn_scale bias, unsigned bias_shift, int32_t total,
                                 int32_t t) {
    float weighed = scale * (float)total;
    float mean = weighed / (float)t;
    (void)shift;
    (void)bias_shift;
    return mean + bias;
}

#endif

#endif
