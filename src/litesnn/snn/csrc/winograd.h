/* 3 × 3 convolutions of stride 1 with padding 1, and their gradients, by Winograd's algorithm: tiles of 2 × 2 outputs take
 * 16 multiplications for each pair of channels, not 36, and tiles of 4 × 4 take 36, not 144. After Lavin and Gray,
 * "Fast Algorithms for Convolutional Neural Networks" (CVPR 2016), section 4. Results round otherwise than those of a
 * direct convolution: about as well for tiles of 2 × 2; for 4 × 4 errors are 3 to 10 times as large, a half of what they are with the
 * points that the paper takes.
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

/* The sides of the tiles that the instruction set in use has loops for, larger ones first: their n-th; 0 after the last.
 * It needs vectors with a fused multiply-add. */
LSNN_API int32_t lsnn_winograd_tile(int32_t n);

/* out = x * weights for weights [outputs, inputs, 3, 3]; `transposed`: weights are [inputs, outputs, 3, 3] of a
 * convolution the other way, of which x is the gradient of the output and out that of the input. `tile`: the n-th.
 * Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd(void *team, int32_t tile, const lsnn_maps *maps, const lsnn_map *x,
                               const float *weights, int32_t transposed, const lsnn_map *out);

/* The gradient of weights [outputs, inputs, 3, 3] from the input x and the gradient g of the output. The sum of each
 * worker is added up to those of the others in their order. Returns 0, or 1: no memory. */
LSNN_API int32_t lsnn_winograd_weight_gradient(void *team, int32_t tile, const lsnn_maps *maps, const lsnn_map *x,
                                               const lsnn_map *g, float *gradient);

#endif
