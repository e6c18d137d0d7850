/* The model that an engine image describes, checked.
 *
 * An image is a sequence of 32-bit little-endian words, arrays of int8 filled up with zeros to whole words:
 *
 *   magic "LSNN", version (1; 1 more where the populations say their neurons, 2 more where spikes are graded), bytes of
 *   the image, timesteps T, channels C, height H, width W, kind (0 uint8 pixels, 1 float numbers, 2 uint8 counts of
 *   events, another frame [C, H, W] at each timestep), classes K, populations P,
 *   fraction F (0: float arithmetic), leak f32, threshold f32 (fixed: Θ i32), (versions 3 and 4: levels D, the largest
 *   spike,)
 *   mean f32 [C], std f32 [C],
 *   P times: channels, bundles, (versions 2 and 4: leak f32, reset f32 or i32: what a spike takes from the membrane of
 *     the next timestep, negative: all of it,) rate f32 (negative: not measured), bias [channels],
 *     bundles times: kernel (0: identity), stride, bits, shift, sources, source i32 [sources] (-1: the input),
 *       scale [channels], codes int8 [channels, inputs, kernel, kernel],
 *   readout: bits, shift, fraction, sources, source i32 [sources], scale [K], bias [K], codes int8 [K, inputs]
 *
 * Scales and biases are f32, or i32 in fixed arithmetic. What the numbers mean: litesnn.deploy.reference.
 */
#ifndef LSNN_LOADER_H
#define LSNN_LOADER_H

#include <stddef.h>
#include <stdint.h>

#define LSNN_IMAGE (-1) /* the source that is the input */
#define LSNN_MAX_STRIDE 64
#define LSNN_MAX_LEVELS 7 /* the largest graded spike */
#define LSNN_MAX_SPIKE_BITS 3

enum { LSNN_PIXELS = 0, LSNN_NUMBERS = 1, LSNN_COUNTS = 2 }; /* kinds of input */

typedef union { /* float or fixed arithmetic */
    float real;
    int32_t fixed;
} lsnn_number;

typedef struct {
    int32_t kernel, stride, bits, shift;
    int32_t source_count, inputs; /* inputs: channels of all sources together */
    int32_t *sources;
    lsnn_number *scale; /* [channels] */
    int8_t *codes;      /* [channels, inputs, kernel, kernel]; NULL for an identity */
} lsnn_synapses;

typedef struct {
    int32_t channels, height, width, bundle_count;
    int32_t soft; /* a spike takes `reset` from the membrane of the next timestep; else all of it */
    lsnn_number leak, reset; /* fixed: the leak is a shift */
    float rate;
    lsnn_number *bias; /* [channels] */
    lsnn_synapses *bundles;
} lsnn_population;

typedef struct {
    int32_t timesteps, channels, height, width, kind, classes, population_count, fraction;
    int32_t levels; /* the largest spike: 1, or of graded ones up to LSNN_MAX_LEVELS */
    lsnn_number leak, threshold;
    float *mean, *std;
    lsnn_population *populations;
    lsnn_synapses readout; /* kernel 1, codes [classes, inputs] */
    lsnn_number *readout_bias;
    int32_t readout_fraction;
} lsnn_model;

/* Returns an lsnn_status; on failure the model is empty and the message says what is wrong. */
int lsnn_model_load(lsnn_model *model, const void *image, size_t size, char *message, size_t message_size);
void lsnn_model_free(lsnn_model *model);

/* Frames [C, H, W] of one input: one that is seen at every timestep, or one for each. */
static inline int32_t lsnn_frames(const lsnn_model *model) { return model->kind == LSNN_COUNTS ? model->timesteps : 1; }

/* Bits of a spike. */
static inline int32_t lsnn_spike_bits(const lsnn_model *model)
{
    return model->levels > 3 ? 3 : model->levels > 1 ? 2 : 1;
}

/* Binary steps: a timestep has one for each bit of its spikes, the lowest first. Whatever reads spikes before they are
 * weighed by scales computes them as if they were timesteps of binary spikes. */
static inline int32_t lsnn_binary_steps(const lsnn_model *model) { return model->timesteps * lsnn_spike_bits(model); }

/* The output size of a map of `size` under a stride: the same formula for height and width. */
static inline int32_t lsnn_strided(int32_t size, int32_t stride) { return (size + stride - 1) / stride; }

#endif
