#include "mutate.h"

#include <string.h>

#include "loader.h"

#define MAX_POPULATIONS 64 /* as many as are mended; a size of their own keeps images small */
#define MAX_BUNDLES 16
#define MAX_SOURCES 8
#define MAX_CHANNELS 96
#define MAX_SIDE 256

typedef struct {
    int32_t channels, height, width;
} shape;

typedef struct {
    int32_t kernel, stride, bits, shift, source_count;
    int32_t sources[MAX_SOURCES];
} wiring;

typedef struct {
    const uint8_t *at, *end;
    uint8_t *out;
    size_t written, most;
    uint32_t random;
    int fixed, neurons, graded; /* populations say their neurons, as in versions 2 and 4; spikes are graded, as in 3 and 4 */
    shape image, populations[MAX_POPULATIONS];
} draft;

/* --- Words. --- */

static uint32_t take(draft *made, size_t bytes)
{
    uint32_t word = next_random(&made->random);
    if ((size_t)(made->end - made->at) >= bytes) {
        word = 0;
        memcpy(&word, made->at, bytes);
        made->at += bytes;
    }
    return word;
}

static void put(draft *made, uint32_t word, size_t bytes)
{
    if (made->written <= made->most && made->most - made->written >= bytes) {
        memcpy(made->out + made->written, &word, bytes);
        made->written += bytes;
    } else
        made->written = made->most + 1; /* full */
}

/* The next number if it lies in low..high, else one of low..low + few - 1. */
static int32_t take_integer(draft *made, int32_t low, int32_t high, uint32_t few)
{
    const uint32_t word = take(made, 4);
    int32_t value;
    memcpy(&value, &word, sizeof value);
    return value >= low && value <= high ? value : low + (int32_t)(word % few);
}

static int32_t copy_integer(draft *made, int32_t low, int32_t high, uint32_t few)
{
    const int32_t value = take_integer(made, low, high, few);
    put(made, (uint32_t)value, 4);
    return value;
}

static void copy_real(draft *made, float low, float high)
{
    static const float usual[] = {0.03125f, 1.0f, 0.5f, 0.25f, 0.125f, 0.03f, 0.01f, 0.2f};
    uint32_t word = take(made, 4);
    float value;
    memcpy(&value, &word, sizeof value);
    if (!(value >= low && value <= high)) {
        value = word >> 31 && low < 0 ? -usual[word % 8] : usual[word % 8];
        memcpy(&word, &value, sizeof word);
    }
    put(made, word, 4);
}

static void copy_numbers(draft *made, int32_t count)
{
    for (; count > 0; count--)
        if (made->fixed)
            copy_integer(made, -(1 << 15), 1 << 15, 256);
        else
            copy_real(made, -65504.0f, 65504.0f);
}

static void copy_codes(draft *made, int64_t count, int32_t bits)
{
    const int top = (1 << bits) - 1;
    int64_t i;
    for (i = 0; i < count && made->written <= made->most; i++) {
        const int8_t code = (int8_t)take(made, 1);
        const int other = (uint8_t)code % (2 * top + 1) - top;
        const int odd = code % 2 && code >= -top && code <= top;
        put(made, (uint32_t)(odd ? code : other % 2 && code ? other : 0), 1);
    }
    for (; i % 4; i++) {
        take(made, 1);
        put(made, 0, 1);
    }
}

/* --- Wiring. --- */

static const shape *shape_of(const draft *made, int32_t source)
{
    return source == LSNN_IMAGE ? &made->image : &made->populations[source];
}

/* What a bundle puts out, with the channels that it takes in. */
static shape reach_of(const draft *made, const wiring *bundle)
{
    const shape *first = shape_of(made, bundle->sources[0]);
    shape found = {0, lsnn_strided(first->height, bundle->stride), lsnn_strided(first->width, bundle->stride)};
    int32_t i;
    for (i = 0; i < bundle->source_count; i++)
        found.channels += shape_of(made, bundle->sources[i])->channels;
    return found;
}

/* Sources of one size, each before population `known`; the image only if it is the only one. */
static void take_sources(draft *made, wiring *bundle, int32_t known, int image)
{
    int32_t i;
    bundle->source_count = take_integer(made, 1, MAX_SOURCES, 3);
    if (!known)
        bundle->source_count = 1;
    for (i = 0; i < bundle->source_count; i++) {
        const int32_t low = image && bundle->source_count == 1 ? LSNN_IMAGE : 0;
        const int32_t source = take_integer(made, low, known - 1, (uint32_t)(known - low));
        const shape *first = shape_of(made, bundle->sources[0]), *mine = shape_of(made, source);
        const int same = !i || (mine->height == first->height && mine->width == first->width);
        bundle->sources[i] = same ? source : bundle->sources[0];
    }
}

static wiring take_bundle(draft *made, int32_t p)
{
    wiring bundle = {0};
    bundle.kernel = take_integer(made, 0, 31, 6);
    if (bundle.kernel % 2 == 0 && (bundle.kernel || !p))
        bundle.kernel++;
    bundle.stride = take_integer(made, 1, LSNN_MAX_STRIDE, 3);
    bundle.bits = take_integer(made, 1, 4, 4);
    bundle.shift = take_integer(made, 0, 31, 16);
    take_sources(made, &bundle, p, bundle.kernel != 0);
    return bundle;
}

static void put_bundle(draft *made, const wiring *bundle, int32_t channels)
{
    int32_t i;
    put(made, (uint32_t)bundle->kernel, 4);
    put(made, bundle->kernel ? (uint32_t)bundle->stride : 1, 4);
    put(made, bundle->kernel ? (uint32_t)bundle->bits : 0, 4);
    put(made, made->fixed ? (uint32_t)bundle->shift : 0, 4);
    put(made, (uint32_t)bundle->source_count, 4);
    for (i = 0; i < bundle->source_count; i++)
        put(made, (uint32_t)bundle->sources[i], 4);
    copy_numbers(made, channels);
    copy_codes(made, (int64_t)channels * reach_of(made, bundle).channels * bundle->kernel * bundle->kernel, bundle->bits);
}

static void copy_leak(draft *made)
{
    const float quarter = 0.25f;
    uint32_t word;
    if (!made->fixed) {
        copy_real(made, 0.0f, 1.0f);
        return;
    }
    memcpy(&word, &quarter, sizeof word);
    take(made, 4);
    put(made, word, 4);
}

static void put_hard_reset(draft *made)
{
    const float hard = -1.0f;
    uint32_t word;
    memcpy(&word, &hard, sizeof word);
    take(made, 4);
    put(made, word, 4);
}

static void mend_population(draft *made, int32_t p)
{
    shape *mine = &made->populations[p];
    const int32_t channels = copy_integer(made, 1, MAX_CHANNELS, 9);
    const int32_t bundles = copy_integer(made, 1, MAX_BUNDLES, 3);
    wiring first = {0};
    int32_t b;
    if (made->neurons) {
        copy_leak(made);
        if (made->fixed)
            copy_integer(made, -1, made->graded ? -1 : 1 << 30, made->graded ? 1 : 1024);
        else if (made->graded)
            put_hard_reset(made);
        else
            copy_real(made, -1.0f, 1e30f);
    }
    copy_real(made, -1.0f, 1.0f);
    copy_numbers(made, channels);
    for (b = 0; b < bundles; b++) {
        wiring bundle = take_bundle(made, p);
        shape reach = reach_of(made, &bundle);
        if (!bundle.kernel) {
            bundle.stride = 1;
            reach = reach_of(made, &bundle);
            if (reach.channels != channels)
                bundle.kernel = 1;
        }
        if (!b) {
            first = bundle;
            mine->height = reach.height;
            mine->width = reach.width;
        } else if (reach.height != mine->height || reach.width != mine->width) {
            bundle = first;
            bundle.kernel += bundle.kernel ? 2 * (bundle.kernel < 31) : 0;
        }
        put_bundle(made, &bundle, channels);
    }
    mine->channels = channels; /* from here on it can be a source */
}

static void mend_readout(draft *made, int32_t populations, int32_t classes)
{
    wiring readout = {0};
    readout.bits = copy_integer(made, 1, 4, 4);
    copy_integer(made, 0, made->fixed ? 31 : 0, made->fixed ? 16 : 1);
    copy_integer(made, 0, made->fixed ? 24 : 0, made->fixed ? 16 : 1);
    take_sources(made, &readout, populations, 0);
    readout.stride = 1;
    put(made, (uint32_t)readout.source_count, 4);
    for (populations = 0; populations < readout.source_count; populations++)
        put(made, (uint32_t)readout.sources[populations], 4);
    copy_numbers(made, 2 * classes);
    copy_codes(made, (int64_t)classes * reach_of(made, &readout).channels, readout.bits);
}

/* --- Images. --- */

void seal(uint8_t *image, size_t size)
{
    const uint32_t bytes = (uint32_t)size;
    if (size >= 12) {
        const uint8_t version = image[4] >= 1 && image[4] <= 4 ? image[4] : 1;
        memcpy(image, "LSNN\1\0\0", 8);
        image[4] = version;
        memcpy(image + 8, &bytes, sizeof bytes);
    }
}

size_t mend(const uint8_t *image, size_t size, uint8_t *out, size_t most, uint32_t random)
{
    draft made = {0};
    int32_t classes, populations, i;
    made.at = image + (size < 12 ? size : 12);
    made.end = image + size;
    made.out = out;
    made.most = most;
    made.random = random;
    made.neurons = size > 4 && (image[4] == 2 || image[4] == 4);
    made.graded = size > 4 && (image[4] == 3 || image[4] == 4);
    put(&made, 0, 4);
    put(&made, (uint32_t)(1 + made.neurons + 2 * made.graded), 4);
    put(&made, 0, 4); /* for `seal`, as the first */
    copy_integer(&made, 1, 64, 8);
    made.image.channels = copy_integer(&made, 1, MAX_CHANNELS, 4);
    made.image.height = copy_integer(&made, 1, MAX_SIDE, 10);
    made.image.width = copy_integer(&made, 1, MAX_SIDE, 10);
    copy_integer(&made, 0, 1, 2);
    classes = copy_integer(&made, 1, 1024, 10);
    populations = copy_integer(&made, 1, MAX_POPULATIONS, 5);
    made.fixed = copy_integer(&made, 0, 24, 16) != 0;
    copy_leak(&made);
    if (made.fixed)
        copy_integer(&made, 1, 1 << 30, 1024);
    else
        copy_real(&made, 1e-9f, 3.4e38f);
    if (made.graded)
        copy_integer(&made, 2, LSNN_MAX_LEVELS, LSNN_MAX_LEVELS - 1);
    for (i = 0; i < made.image.channels; i++)
        copy_real(&made, -3.4e38f, 3.4e38f);
    for (i = 0; i < made.image.channels; i++)
        copy_real(&made, 1e-9f, 3.4e38f);
    for (i = 0; i < populations && made.written <= most; i++)
        mend_population(&made, i);
    if (made.written <= most)
        mend_readout(&made, populations, classes);
    if (made.written > most)
        return 0;
    seal(out, made.written);
    return made.written;
}
