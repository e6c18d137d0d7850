/* The forms of a spike map: bits in planes, strided planes, words by pixel; and pixels shifted to their taps.
 *
 * A plane of spikes holds images one after another, binary steps outermost, each filled up with zeros to whole bytes.
 */
#ifndef LSNN_MAPS_H
#define LSNN_MAPS_H

#include "plan.h"

/* Inputs [count, frames, C, H, W] -> int8 [frames, count, C, H, W] as litesnn.deploy.reference.quantize_input. Returns
 * an lsnn_status: LSNN_BAD_INPUT where a number is not finite. `table` [C][256] is that of lsnn_quantize_table, for
 * inputs of uint8. */
void lsnn_quantize_table(const lsnn_model *model, int8_t *table);
int lsnn_quantize(const lsnn_model *model, const int8_t *table, const void *inputs, size_t count, int8_t *out);

/* Copies [inputs * taps] of the pixels [batch, inputs, H, W] in the geometry of the output, zeros outside: what tap k
 * of channel c reads. In the order of sums (lsnn_current): [8][bytes of a timestep]. Channels first..last-1. */
void lsnn_shift_pixels(const lsnn_group_plan *group, const int8_t *pixels, int32_t batch, int32_t first, int32_t last,
                       int8_t *out);

/* Ones where a tap reads a pixel that exists: [taps][plane_bytes] for `images` images of the group's output. */
void lsnn_make_masks(const lsnn_group_plan *group, size_t images, size_t plane_bytes, uint8_t *masks);

/* How far each tap of a group looks ahead, in bits, from the start of a plane or of the first of its phases. */
void lsnn_tap_bits(const lsnn_group_plan *group, size_t plane_bytes, int64_t *tap_bits);

/* The phases of a plane that the group's kernel reads, one after another. */
void lsnn_split(const lsnn_group_plan *group, size_t images, const uint8_t *plane, size_t plane_bytes, uint8_t *phases);

/* Sets bit `channel` of every pixel's words [images][H * W][words] where the plane has a spike. */
void lsnn_mark(const uint8_t *plane, size_t images, size_t pixels, int32_t channel, size_t words, uint64_t *marks);

/* Zeros the bits after the last pixel of every image. */
void lsnn_clear_padding(uint8_t *plane, size_t images, size_t pixels);

/* Zeros below the lowest bit that is set; there is one. */
static inline int lsnn_count_zeros(uint64_t bits)
{
#if defined(__GNUC__)
    return __builtin_ctzll(bits);
#else
    int n = 0;
    for (; !(bits & 1); bits >>= 1)
        n++;
    return n;
#endif
}

/* Bits that are set. */
int32_t lsnn_count(const uint8_t *bytes, size_t count);

/* Sets bit `bit` of bytes where a plane has a spike; of bit 0 the other bits are zeroed. */
void lsnn_expand(const uint8_t *plane, size_t pixels, int bit, uint8_t *out);

#endif
