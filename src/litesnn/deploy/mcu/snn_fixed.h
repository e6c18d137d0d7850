/* The neuron's arithmetic in int32 fixed point, without floats: nothing overflows, as the export has proven. */
#ifndef SNN_FIXED_H
#define SNN_FIXED_H

#include <stdint.h>

#include "model.h"

typedef int32_t snn_real;  /* currents and membranes, with the model's fractional bits */
typedef int16_t snn_scale; /* multipliers and biases */
typedef int32_t snn_logit; /* t times the logit, with the readout's fractional bits */

/* What a spike takes from the membrane of the next timestep: `reset` if `soft`, else all of it. */
typedef struct {
    snn_real reset;
    uint8_t soft;
} snn_neuron;

#define SNN_NEURON {SNN_RESET, SNN_SOFT_RESET}

#ifndef __cplusplus /* what follows is the runtime's, which is C */

/* floor(value / 2^shift); C99 leaves the right shift of a negative number to the compiler. */
static inline int32_t snn_shifted(int32_t value, unsigned shift) {
    return value < 0 ? ~(~value >> shift) : value >> shift;
}

static inline snn_real snn_current(snn_scale scale, unsigned shift, int32_t sum) {
    return snn_shifted(scale * sum, shift);
}

static inline snn_real snn_bias(snn_scale bias, unsigned shift) {
    return bias * ((int32_t)1 << shift);
}

static inline snn_real snn_membrane(const snn_neuron *neuron, snn_real u, int spiked, snn_real x) {
    snn_real kept = snn_shifted(u, 2);
    if (spiked) {
        kept = kept - neuron->reset;
        return neuron->soft ? kept + x : x;
    }
    return kept + x;
}

static inline snn_logit snn_read(snn_scale scale, unsigned shift, snn_scale bias, unsigned bias_shift, int32_t total,
                                 int32_t t) {
    return snn_shifted(scale * total, shift) + t * snn_bias(bias, bias_shift);
}

#endif

#endif
