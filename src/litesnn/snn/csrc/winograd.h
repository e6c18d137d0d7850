/* 3 × 3 convolutions of stride 1 with padding 1, and their gradients, by Winograd's algorithm F(2 × 2, 3 × 3): a tile of
 * 2 × 2 outputs takes 16 multiplications for each pair of channels, not 36. Sums are added up in another order than
 * in the direct way, so that results round otherwise, not worse. After Lavin and Gray, "Fast Algorithms for
 * Convolutional Neural Networks" (CVPR 2016), section 4.1.
 *
 * Maps are those of training.h: one row per pixel, images one after another, and one column per channel.
 */
#ifndef LSNN_WINOGRAD_H
#define LSNN_WINOGRAD_H

#include "training.h"

/* How many images and pixels there are, and the channels of input and output. */
typedef struct {
    int64_t images, height, width, inputs, outputs;
} lsnn_maps;

/* Whether the instruction set in use has the loops for it: it needs vectors with a fused multiply-add. */
LSNN_API int32_t lsnn_winograd_here(void);

/* out = x * weights for weights [outputs, inputs, 3, 3]; `transposed`: weights are [inputs, outputs, 3, 3] of a
 * convolution the other way, of which x is the gradient of the output and out that of the input.
 * Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd(void *team, const lsnn_maps *maps, const lsnn_map *x, const float *weights,
                               int32_t transposed, const lsnn_map *out);

/* The gradient of weights [outputs, inputs, 3, 3] from the input x and the gradient g of the output. The sum of each
 * worker is added up to those of the others in their order. Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd_weight_gradient(void *team, const lsnn_maps *maps, const lsnn_map *x,
                                               const lsnn_map *g, float *gradient);

#endif
