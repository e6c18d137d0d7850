/* 3 × 3 convolutions with padding 1 and a stride of 1 or 2, and their gradients, by Winograd's algorithm, which takes
 * fewer multiplications for a tile of outputs and a pair of channels than the direct way:
 *
 *     stride 1, 4 × 4 outputs:  36, not 144
 *     stride 1, 2 × 2 outputs:  16, not  36, for maps that larger tiles do not fit
 *     stride 2, 4 × 4 outputs:  81, not 144
 *
 * After Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4, with other points
 * and, for a stride of 2, odd and even pixels apart. Results round otherwise than those of a direct convolution: errors
 * are 1 to 3 times as large with tiles of 2 × 2 and 2 to 10 times with 4 × 4, a millionth of what the outputs vary by.
 *
 * Maps are those of training.h: one row per pixel, images one after another, and one column per channel.
 */
#ifndef LSNN_WINOGRAD_H
#define LSNN_WINOGRAD_H

#include "training.h"

/* One way to do it. */
typedef struct {
    int64_t side, stride; /* of a tile of outputs, and of the convolution */
} lsnn_scheme;

/* A convolution: how many images, the height and width of its input, and the channels of both. */
typedef struct {
    int64_t images, height, width, inputs, outputs;
} lsnn_convolution;

/* The n-th scheme that the instruction set in use has loops for; both numbers 0 after the last. Portable C has none: the
 * loops need vectors with a fused multiply-add. */
LSNN_API lsnn_scheme lsnn_winograd_scheme(int32_t n);

/* The functions below take the number n of a scheme of the instruction set in use.
 *
 * output = input * weights for weights [outputs, inputs, 3, 3], and the mean and variance (divisor: all pixels) of every
 * output channel, unless both are NULL. They are sums of some pixels, added up in double for each worker and then over
 * the workers in their order. Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd(void *team, int32_t n, const lsnn_convolution *convolution, const lsnn_map *input,
                               const float *weights, const lsnn_map *output, float *mean, float *variance);

/* The gradient of the input from that of the output. Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd_input_gradient(void *team, int32_t n, const lsnn_convolution *convolution,
                                              const lsnn_map *output_gradient, const float *weights,
                                              const lsnn_map *input_gradient);

/* A normalisation between the output z of a convolution and the gradient g of what follows: dz = a · g + b · z + c for
 * every channel. g has so many `columns`: those of the output, or, for groups of outputs that lead to the same place, a
 * part of them that is a multiple of lsnn_winograd_vector(); the channel o takes column o % columns. */
typedef struct {
    lsnn_map g;
    int64_t columns;
    const float *a, *b, *c;
} lsnn_normalised;

/* Floats of a vector of the instruction set in use; 0 if there are no schemes. */
LSNN_API int64_t lsnn_winograd_vector(void);

/* The gradient of the weights from the input and the gradient of the output. If `normalised` is not NULL,
 * `output_gradient` holds the output, and becomes its gradient. The sums of the workers are added up in their order.
 * Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd_weight_gradient(void *team, int32_t n, const lsnn_convolution *convolution,
                                               const lsnn_map *input, const lsnn_map *output_gradient,
                                               const lsnn_normalised *normalised, float *gradient);

#endif
