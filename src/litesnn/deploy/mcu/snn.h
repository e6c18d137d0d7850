/* Runs one packed spiking network on a small device, bit for bit as litesnn.deploy.reference says.
 *
 * In: a model, which is constant tables (model.c), and one input: an image, or a frame of events for each timestep.
 * Out: the logits of every timestep. All memory is static and was planned when the model was exported. One network per
 * program, one caller at a time.
 *
 * Layer by layer, all T timesteps at once. Spikes are bits: a timestep is one binary step, or of graded spikes one for
 * each bit of them, the lowest first. A channel's spikes are one plane, a row of lanes:
 *
 *     lane = (step * (H + p) + y) * (W + p) + x
 *
 * with p zero lanes after every row and p zero rows after every step, so that a weight at (dy, dx) reads the lane
 * dy * (W + p) + dx further on, wherever it is: no borders to look after. p is half of the largest kernel, rounded
 * down. Every plane starts at a whole word.
 */
#ifndef SNN_H
#define SNN_H

#include <stdint.h>

#include "model.h"

#ifdef __cplusplus
extern "C" {
#endif

#if SNN_FIXED
#include "snn_fixed.h"
#else
#include "snn_float.h"
#endif

#if SNN_SUM_BITS == 16
typedef int16_t snn_sum; /* wide enough for every sum of the model's weights */
#else
typedef int32_t snn_sum;
#endif

#if SNN_COUNT_BITS == 16
typedef uint16_t snn_count; /* spikes of a channel */
#else
typedef uint32_t snn_count;
#endif

#define SNN_STEPS (SNN_TIMESTEPS * SNN_SPIKE_BITS) /* binary steps */

#if SNN_IMAGE_INPUT
typedef uint8_t snn_input; /* pixels, or counts of events */
#elif SNN_FIXED
typedef int8_t snn_input; /* steps: clip(round(32 * (x - mean) / std), -127, 127) */
#else
typedef float snn_input;
#endif

enum { SNN_FROM_IMAGE, SNN_IDENTITY, SNN_EVENTS, SNN_SLICED };       /* how a bundle is computed */
enum { SNN_ALL_KEPT, SNN_BITMAP, SNN_GAPS };                        /* how the places of kept weights are stored */

/* How planes of H x W pixels are laid out. */
typedef struct {
    uint16_t height, width;
    uint16_t pitch; /* lanes from row to row */
    uint16_t frame; /* lanes from step to step */
    uint16_t words; /* of one plane */
} snn_grid;

/* Where the spikes of a population are, or their fold: the s * s planes of each channel that a stride of s reads. */
typedef struct {
    uint32_t first; /* word of the arena; the words before it are zero as far as a weight can reach */
    uint16_t guard; /* so many words */
    uint16_t channels;
    uint16_t planes; /* of each channel: 1, or s * s */
    uint8_t grid;
} snn_map;

typedef struct {
    uint8_t from, to; /* maps */
    uint8_t stride;
} snn_fold;

/* Where a weight of a kernel reads: so many lanes (of the image: bytes) further on, in which plane of the channel;
 * and both together, from lane 0 of the channel's first plane. */
typedef struct {
    int16_t offset;
    uint16_t plane;
    int32_t lanes;
} snn_tap;

/* The kept weights of a layer, row by row: one row is all weights of one output channel. */
typedef struct {
    const uint8_t *places; /* bitmap, or Rice code of the gaps; not read if all are kept */
    const uint8_t *codes;
    uint32_t kept, row;
    uint16_t taps; /* weights for each input channel */
    uint8_t bits, coding, rice;
} snn_weights;

typedef struct {
    snn_weights weights;
    const uint8_t *maps; /* the sources */
    const snn_tap *taps;
    const snn_scale *scale;
    uint8_t kind, stride, shift;
} snn_bundle;

typedef struct {
    const snn_bundle *bundles;
    const snn_fold *folds; /* that are made before it */
    const snn_scale *bias;
    uint8_t bundle_count, fold_count, bias_shift;
    uint8_t map;
    uint8_t frames; /* of currents: 1 if they are the same at every step, else T */
#if SNN_OWN_NEURONS
    snn_neuron neuron;
#endif
} snn_population;

typedef struct {
    uint32_t first; /* byte of the arena where channel 0 begins */
    uint16_t lead;  /* zero bytes before it */
    uint16_t channels, height, width, pitch; /* of a frame; there are SNN_FRAMES, one after another */
    uint32_t plane; /* bytes from channel to channel */
#if SNN_FIXED
    const int8_t *steps; /* [C][256], for pixels */
#else
    const float *mean, *std;
#endif
} snn_image;

typedef struct {
    snn_weights weights;
    const uint8_t *maps;
    const snn_scale *scale, *bias;
    uint16_t channels, classes;
    uint8_t sources, shift, bias_shift;
} snn_readout;

typedef struct {
    snn_image image;
    const snn_grid *grids;
    const snn_map *maps;
    const snn_population *populations;
    snn_readout readout;
    uint8_t population_count;
} snn_model;

extern const snn_model snn_network; /* model.c */

/* Run the input [SNN_FRAMES, C, H, W]. logits: [T, classes]; with fixed point these are t times the logits, times
 * 2^fraction. Returns 1, or 0 if an input number is not finite. */
int snn_run(const snn_input *input, snn_logit *logits);

/* The class with the largest logit after the last step; of equals, the first. */
int snn_class(const snn_logit *logits);

#if SNN_TRACE
/* Called after each population if it is set; for tests. */
extern void (*snn_watch)(int population);

/* The spikes of a population that has just been run, 0 to SNN_LEVELS. */
int snn_spike(int population, int t, int channel, int y, int x);
#endif

#ifdef __cplusplus
}
#endif

#endif
