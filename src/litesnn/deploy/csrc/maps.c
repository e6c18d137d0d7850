#include "maps.h"

#include <math.h>
#include <string.h>

#include "litesnn.h"

/* --- The input. --- */

static int8_t quantized(float raw, float mean, float std)
{
    const float steps = rintf(32.0f * ((raw - mean) / std)); /* half to even */
    return (int8_t)(steps > 127.0f ? 127.0f : steps < -127.0f ? -127.0f : steps);
}

void lsnn_quantize_table(const lsnn_model *model, int8_t *table)
{
    int32_t c;
    int value;
    for (c = 0; c < model->channels; c++)
        for (value = 0; value < 256; value++)
            table[256 * c + value] = quantized((float)value, model->mean[c], model->std[c]);
}

int lsnn_quantize(const lsnn_model *model, const int8_t *table, const void *inputs, size_t count, int8_t *out)
{
    const size_t area = (size_t)model->height * (size_t)model->width, frames = (size_t)lsnn_frames(model);
    const uint8_t *bytes = inputs;
    const float *numbers = inputs;
    size_t n, t, i;
    int32_t c;
    for (n = 0; n < count; n++)
        for (t = 0; t < frames; t++) {
            int8_t *to = out + (t * count + n) * (size_t)model->channels * area;
            for (c = 0; c < model->channels; c++)
                for (i = 0; i < area; i++, to++)
                    if (model->kind != LSNN_NUMBERS)
                        *to = table[256 * c + *bytes++];
                    else if (isfinite(*numbers))
                        *to = quantized(*numbers++, model->mean[c], model->std[c]);
                    else
                        return LSNN_BAD_INPUT;
        }
    return LSNN_OK;
}

void lsnn_shift_pixels(const lsnn_group_plan *group, const int8_t *pixels, int32_t batch, int32_t first, int32_t last,
                       int8_t *out)
{
    const int32_t border = group->kernel / 2, stride = group->stride, width = group->width;
    const size_t area = (size_t)group->height * (size_t)width;
    const size_t image = lsnn_image_bytes(group->out_height, group->out_width), bytes = (size_t)batch * image;
    int32_t channel, ky, kx, n, y, x;
    for (channel = first; channel < last; channel++)
        for (ky = 0; ky < group->kernel; ky++)
            for (kx = 0; kx < group->kernel; kx++) {
                int8_t *to = out + (size_t)(channel * group->taps + ky * group->kernel + kx) * 8 * bytes;
                memset(to, 0, 8 * bytes);
                for (n = 0; n < batch; n++, to += image)
                    for (y = 0; y < group->out_height; y++) {
                        const int32_t row = y * stride + ky - border;
                        const int8_t *from = pixels + ((size_t)n * (size_t)group->inputs + (size_t)channel) * area;
                        size_t at = (size_t)y * (size_t)group->out_width;
                        if (row < 0 || row >= group->height)
                            continue;
                        from += (size_t)row * (size_t)width;
                        for (x = 0; x < group->out_width; x++, at++) {
                            const int32_t column = x * stride + kx - border;
                            if (column >= 0 && column < width)
                                to[at % 8 * bytes + at / 8] = from[column];
                        }
                    }
            }
}

/* --- Shifts. --- */

/* Sets `count` bits from `first` on. */
static void set_bits(uint8_t *bytes, size_t first, size_t count)
{
    size_t bit = first;
    for (; bit < first + count && bit % 8; bit++)
        bytes[bit / 8] |= (uint8_t)(1u << bit % 8);
    if (bit + 8 <= first + count) {
        const size_t whole = (first + count - bit) / 8;
        memset(bytes + bit / 8, 0xFF, whole);
        bit += 8 * whole;
    }
    for (; bit < first + count; bit++)
        bytes[bit / 8] |= (uint8_t)(1u << bit % 8);
}

void lsnn_make_masks(const lsnn_group_plan *group, size_t images, size_t plane_bytes, uint8_t *masks)
{
    const int32_t height = group->out_height, width = group->out_width;
    const size_t image = lsnn_image_bytes(height, width);
    int32_t ky, kx, y;
    size_t n;
    memset(masks, 0, (size_t)group->taps * plane_bytes);
    for (ky = 0; ky < group->kernel; ky++)
        for (kx = 0; kx < group->kernel; kx++, masks += plane_bytes) {
            const int32_t down = lsnn_tap_of(group, ky).shift, right = lsnn_tap_of(group, kx).shift;
            const int32_t left = right < 0 ? -right : 0, end = right > 0 ? width - right : width;
            for (y = 0; y < height && left < end; y++)
                if (y + down >= 0 && y + down < height)
                    set_bits(masks, (size_t)y * (size_t)width + (size_t)left, (size_t)(end - left));
            for (n = 1; n < images; n++)
                memcpy(masks + n * image, masks, image);
        }
}

void lsnn_tap_bits(const lsnn_group_plan *group, size_t plane_bytes, int64_t *tap_bits)
{
    const int64_t side = lsnn_phases(group);
    int32_t ky, kx;
    for (ky = 0; ky < group->kernel; ky++)
        for (kx = 0; kx < group->kernel; kx++) {
            const lsnn_tap down = lsnn_tap_of(group, ky), right = lsnn_tap_of(group, kx);
            *tap_bits++ = (down.slot * side + right.slot) * (int64_t)plane_bytes * 8 +
                          (int64_t)down.shift * group->out_width + right.shift;
        }
}

/* --- Strides. --- */

/* The even bits of 64, in order. */
static uint64_t even_bits(uint64_t x)
{
    x &= 0x5555555555555555u;
    x = (x | x >> 1) & 0x3333333333333333u;
    x = (x | x >> 2) & 0x0F0F0F0F0F0F0F0Fu;
    x = (x | x >> 4) & 0x00FF00FF00FF00FFu;
    x = (x | x >> 8) & 0x0000FFFF0000FFFFu;
    return (x | x >> 16) & 0x00000000FFFFFFFFu;
}

/* Stride 2 where every row of the output is whole bytes: 16 pixels of a row at a time. */
static void halve(const lsnn_group_plan *group, size_t images, const uint8_t *plane, size_t plane_bytes,
                  uint8_t *phases)
{
    const size_t row = (size_t)group->out_width / 8, rows = images * (size_t)group->height;
    const int all = lsnn_phases(group) == 2; /* or only the first, for a kernel of 1 */
    size_t y, x;
    for (y = 0; y < rows; y++) {
        uint8_t *even = phases + (y & 1) * 2 * plane_bytes + (y / 2) * row, *odd = even + plane_bytes;
        if (!all && (y & 1)) {
            plane += 2 * row;
            continue;
        }
        for (x = 0; x < row;) {
            const size_t bytes = row - x >= 4 ? 4 : row - x >= 2 ? 2 : 1; /* of the output */
            uint64_t bits = 0, part;
            if (bytes == 4) /* lengths that the compiler knows */
                memcpy(&bits, plane, 8);
            else if (bytes == 2)
                memcpy(&bits, plane, 4);
            else
                memcpy(&bits, plane, 2);
            part = even_bits(bits);
            memcpy(even + x, &part, bytes);
            if (all) {
                part = even_bits(bits >> 1);
                memcpy(odd + x, &part, bytes);
            }
            plane += 2 * bytes;
            x += bytes;
        }
    }
}

void lsnn_split(const lsnn_group_plan *group, size_t images, const uint8_t *plane, size_t plane_bytes, uint8_t *phases)
{
    const int32_t side = lsnn_phases(group), stride = group->stride;
    const size_t image = lsnn_image_bytes(group->height, group->width);
    const size_t out_image = lsnn_image_bytes(group->out_height, group->out_width);
    int32_t slots[LSNN_MAX_STRIDE], position, y, x;
    size_t n;
    if (stride == 2 && group->height % 2 == 0 && group->width % 16 == 0) {
        halve(group, images, plane, plane_bytes, phases);
        return;
    }
    for (position = 0; position < stride; position++)
        slots[position] = -1;
    for (position = 0; position < group->kernel; position++)
        slots[lsnn_tap_of(group, position).phase] = lsnn_tap_of(group, position).slot;
    memset(phases, 0, (size_t)side * (size_t)side * plane_bytes);
    for (n = 0; n < images; n++, plane += image, phases += out_image)
        for (y = 0; y < group->height; y++) {
            const int32_t row = slots[y % stride];
            if (row < 0)
                continue;
            for (x = 0; x < group->width; x++) {
                const size_t bit = (size_t)y * (size_t)group->width + (size_t)x;
                const int32_t column = slots[x % stride];
                if (column >= 0 && plane[bit / 8] >> bit % 8 & 1) {
                    const size_t to = (size_t)(y / stride) * (size_t)group->out_width + (size_t)(x / stride);
                    phases[(size_t)(row * side + column) * plane_bytes + to / 8] |= (uint8_t)(1u << to % 8);
                }
            }
        }
}

/* --- Other forms. --- */

void lsnn_mark(const uint8_t *plane, size_t images, size_t pixels, int32_t channel, size_t words, uint64_t *marks)
{
    const uint64_t mark = (uint64_t)1 << channel % 64;
    size_t n, i;
    marks += channel / 64;
    for (n = 0; n < images; n++, marks += pixels * words)
        for (i = 0; i < (pixels + 7) / 8; i++) {
            unsigned bits = *plane++, j;
            for (j = 0; bits; j++, bits >>= 1)
                if (bits & 1)
                    marks[(8 * i + j) * words] |= mark;
        }
}

void lsnn_clear_padding(uint8_t *plane, size_t images, size_t pixels)
{
    const size_t image = (pixels + 7) / 8;
    const uint8_t kept = (uint8_t)((1u << pixels % 8) - 1);
    size_t n;
    if (pixels % 8)
        for (n = 1; n <= images; n++)
            plane[n * image - 1] &= kept;
}

int32_t lsnn_count(const uint8_t *bytes, size_t count)
{
    int32_t total = 0;
    size_t i;
    for (i = 0; i + 8 <= count; i += 8) {
        uint64_t x;
        memcpy(&x, bytes + i, 8);
        x -= x >> 1 & 0x5555555555555555u;
        x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
        x = (x + (x >> 4)) & 0x0F0F0F0F0F0F0F0Fu;
        total += (int32_t)(x * 0x0101010101010101u >> 56);
    }
    for (; i < count; i++) {
        unsigned bits = bytes[i];
        for (; bits; bits &= bits - 1)
            total++;
    }
    return total;
}

void lsnn_expand(const uint8_t *plane, size_t pixels, int bit, uint8_t *out)
{
    size_t i;
    for (i = 0; i < pixels; i++)
        out[i] = (uint8_t)((bit ? out[i] : 0) | (plane[i / 8] >> i % 8 & 1) << bit);
}
