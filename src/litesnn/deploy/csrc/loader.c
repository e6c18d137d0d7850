#include "loader.h"

#include <float.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "litesnn.h"

/* The limits of the packed format: litesnn.deploy.limits, which says what they mean. */
#define MAX_WEIGHTS (1 << 26)
#define MAX_NEURONS (1 << 26)
#define MAX_SPIKES (1 << 28)
#define MAX_READ (1 << 26)
#define MAX_RESET (1267650600228229401496703205376.0) /* 2^100 */
#define MAX_KERNEL 31
#define MAX_STRIDE LSNN_MAX_STRIDE
#define MAX_TIMESTEPS 64
#define MAX_LEVELS LSNN_MAX_LEVELS
#define MAX_CLASSES (1 << 20)
#define MAX_POPULATIONS 4096 /* also the bundles of one, and the sources of one */
#define MAX_BUNDLES 16384    /* of all populations */
#define MAX_INPUT 127
#define MAX_CURRENT (1 << 30)
#define MAX_SHIFT 31
#define MAX_FRACTION 24

typedef struct {
    const uint8_t *at, *end;
    char *message;
    size_t message_size;
    int status;
    uint32_t version;
    int64_t weights, neurons, spikes, bundles;
} reader;

static void refuse(reader *in, int status, const char *format, ...)
{
    va_list arguments;
    if (in->status != LSNN_OK)
        return; /* the first fault is the one to tell */
    in->status = status;
    va_start(arguments, format);
    vsnprintf(in->message, in->message_size, format, arguments);
    va_end(arguments);
}

static size_t left(const reader *in) { return (size_t)(in->end - in->at); }

/* Zeroed memory for count items; NULL, and the reader stopped, if there is none. Every count is limited before. */
static void *reserve(reader *in, size_t count, size_t size)
{
    void *memory = in->status == LSNN_OK ? calloc(count ? count : 1, size) : NULL;
    if (!memory)
        refuse(in, LSNN_NO_MEMORY, "not enough memory");
    return memory;
}

static uint32_t word(reader *in)
{
    uint32_t value;
    if (in->status != LSNN_OK || left(in) < 4) {
        refuse(in, LSNN_BAD_IMAGE, "the image ends too early");
        return 0;
    }
    value = (uint32_t)in->at[0] | (uint32_t)in->at[1] << 8 | (uint32_t)in->at[2] << 16 | (uint32_t)in->at[3] << 24;
    in->at += 4;
    return value;
}

static int32_t integer(reader *in, int32_t low, int32_t high, const char *name)
{
    uint32_t bits = word(in);
    int32_t value;
    memcpy(&value, &bits, sizeof value);
    if (in->status == LSNN_OK && (value < low || value > high))
        refuse(in, LSNN_BAD_IMAGE, "%s: expected %ld to %ld, found %ld", name, (long)low, (long)high, (long)value);
    return in->status == LSNN_OK ? value : low;
}

static float real(reader *in, float low, float high, const char *name)
{
    uint32_t bits = word(in);
    float value;
    memcpy(&value, &bits, sizeof value);
    if (in->status == LSNN_OK && !(value >= low && value <= high)) /* refuses NaN as well */
        refuse(in, LSNN_BAD_IMAGE, "%s: expected %g to %g, found %g", name, (double)low, (double)high, (double)value);
    return in->status == LSNN_OK ? value : low;
}

static lsnn_number number(reader *in, int fixed, const char *name)
{
    lsnn_number value;
    if (fixed)
        value.fixed = integer(in, -MAX_CURRENT, MAX_CURRENT, name);
    else
        value.real = real(in, -65504.0f, 65504.0f, name); /* the range of the float16 numbers of the file */
    return value;
}

static lsnn_number *numbers(reader *in, int32_t count, int fixed, const char *name)
{
    lsnn_number *values = NULL;
    int32_t i;
    if (left(in) / 4 < (size_t)count)
        refuse(in, LSNN_BAD_IMAGE, "%s: the image ends too early", name);
    values = reserve(in, (size_t)count, sizeof *values);
    for (i = 0; values && i < count; i++)
        values[i] = number(in, fixed, name);
    return values;
}

/* Odd codes of at most 2^bits - 1 in magnitude, 0 where pruned. */
static int8_t *codes(reader *in, int64_t count, int32_t bits, const char *name)
{
    const int top = (1 << bits) - 1;
    const int64_t padded = (count + 3) / 4 * 4;
    int8_t *values;
    int64_t i;
    in->weights += count;
    if (in->weights > MAX_WEIGHTS)
        refuse(in, LSNN_BAD_IMAGE, "%s: expected at most %d weights in all", name, MAX_WEIGHTS);
    else if (left(in) < (size_t)padded)
        refuse(in, LSNN_BAD_IMAGE, "%s: the image ends too early", name);
    values = reserve(in, (size_t)count, 1);
    if (!values)
        return NULL;
    memcpy(values, in->at, (size_t)count);
    for (i = count; i < padded; i++)
        if (in->at[i])
            refuse(in, LSNN_BAD_IMAGE, "%s: expected zeros after the codes", name);
    in->at += padded;
    for (i = 0; i < count; i++)
        if (values[i] && (values[i] % 2 == 0 || values[i] > top || values[i] < -top))
            refuse(in, LSNN_BAD_IMAGE, "%s: expected odd codes of %d bits, found %d", name, (int)bits, (int)values[i]);
    return values;
}

static void count_neurons(reader *in, int64_t channels, int64_t height, int64_t width)
{
    /* Channels are at most 2^32 (of 64 frames), the others 2^26, whose product is checked before it is used. */
    int64_t area = height * width;
    if (area > MAX_NEURONS || area * channels > MAX_NEURONS - in->neurons)
        refuse(in, LSNN_BAD_IMAGE, "expected at most %d pixels and neurons in all", MAX_NEURONS);
    else
        in->neurons += area * channels;
}

/* After count_neurons, so that the product fits. */
static void count_spikes(reader *in, const lsnn_model *model, const lsnn_population *population)
{
    if (in->status == LSNN_OK)
        in->spikes += (int64_t)population->channels * population->height * population->width * model->timesteps;
    if (in->spikes > MAX_SPIKES)
        refuse(in, LSNN_BAD_IMAGE, "expected at most %d neurons times timesteps in all", MAX_SPIKES);
}

/* Reads the sources of a bundle; height and width of their maps come back, and the sum of their channels. */
static void sources(reader *in, const lsnn_model *model, int32_t known, int image_allowed, lsnn_synapses *bundle,
                    int32_t *height, int32_t *width)
{
    int64_t inputs = 0;
    int32_t i;
    *height = *width = 1;
    bundle->source_count = integer(in, 1, MAX_POPULATIONS, "sources");
    if (left(in) / 4 < (size_t)bundle->source_count)
        refuse(in, LSNN_BAD_IMAGE, "sources: the image ends too early");
    bundle->sources = reserve(in, (size_t)bundle->source_count, sizeof *bundle->sources);
    for (i = 0; bundle->sources && i < bundle->source_count && in->status == LSNN_OK; i++) {
        const int32_t low = image_allowed && bundle->source_count == 1 ? LSNN_IMAGE : 0;
        const int32_t source = integer(in, low, known - 1, "source");
        int32_t channels, h, w;
        if (in->status != LSNN_OK)
            return;
        bundle->sources[i] = source;
        channels = source == LSNN_IMAGE ? model->channels : model->populations[source].channels;
        h = source == LSNN_IMAGE ? model->height : model->populations[source].height;
        w = source == LSNN_IMAGE ? model->width : model->populations[source].width;
        if (i && (h != *height || w != *width))
            refuse(in, LSNN_BAD_IMAGE, "source: expected populations of one size");
        *height = h;
        *width = w;
        inputs += channels;
    }
    /* Channels are at most 2^12 times 2^26, and the area of a map 2^26. */
    if (inputs > MAX_READ / ((int64_t)*height * *width))
        refuse(in, LSNN_BAD_IMAGE, "sources: expected at most %d inputs, channels times pixels", MAX_READ);
    else
        bundle->inputs = (int32_t)inputs;
}

static void bundle(reader *in, lsnn_model *model, int32_t index, int32_t number_of)
{
    lsnn_population *population = &model->populations[index];
    lsnn_synapses *made = &population->bundles[number_of];
    int32_t height, width;
    made->kernel = integer(in, 0, MAX_KERNEL, "kernel");
    made->stride = integer(in, 1, MAX_STRIDE, "stride");
    made->bits = integer(in, 0, 4, "bits");
    made->shift = integer(in, 0, MAX_SHIFT, "shift");
    if (made->kernel == 0 ? made->stride != 1 || made->bits != 0 : made->kernel % 2 == 0 || made->bits == 0)
        refuse(in, LSNN_BAD_IMAGE, "kernel: expected an odd number with 1 to 4 bits, or 0, stride 1 and 0 bits");
    if (made->shift && !model->fraction)
        refuse(in, LSNN_BAD_IMAGE, "shift: expected 0 in float arithmetic");
    sources(in, model, index, made->kernel != 0, made, &height, &width);
    if (in->status != LSNN_OK)
        return;
    height = lsnn_strided(height, made->stride);
    width = lsnn_strided(width, made->stride);
    if (number_of == 0) {
        population->height = height;
        population->width = width;
        count_neurons(in, population->channels, height, width);
        count_spikes(in, model, population);
    } else if (height != population->height || width != population->width)
        refuse(in, LSNN_BAD_IMAGE, "bundle: expected the output size of the bundle before");
    if (made->kernel == 0 && made->inputs != population->channels)
        refuse(in, LSNN_BAD_IMAGE, "identity: expected as many inputs as channels");
    made->scale = numbers(in, population->channels, model->fraction != 0, "scale");
    if (made->kernel) {
        const int64_t area = (int64_t)made->kernel * made->kernel;
        /* inputs and channels are at most 2^26 each, so the first product fits; weights are limited far below. */
        const int64_t rows = (int64_t)made->inputs * population->channels;
        if (rows > MAX_WEIGHTS)
            refuse(in, LSNN_BAD_IMAGE, "codes: expected at most %d weights in all", MAX_WEIGHTS);
        else
            made->codes = codes(in, rows * area, made->bits, "codes");
    }
}

/* Sum of the magnitudes of the codes of one output channel. */
static int64_t reach(const lsnn_synapses *made, int32_t channel)
{
    const int64_t row = (int64_t)made->inputs * made->kernel * made->kernel;
    int64_t i, sum = 0;
    if (!made->codes)
        return 1;
    for (i = 0; i < row; i++)
        sum += abs(made->codes[channel * row + i]);
    return sum;
}

/* Refuses what could overflow: accumulators beyond int32, and in fixed arithmetic currents, membranes and logits. */
static void prove_population(reader *in, const lsnn_model *model, const lsnn_population *population)
{
    int32_t c, e;
    for (c = 0; c < population->channels && in->status == LSNN_OK; c++) {
        int64_t current = 0;
        for (e = 0; e < population->bundle_count; e++) {
            const lsnn_synapses *made = &population->bundles[e];
            const int64_t sum = reach(made, c) * (made->sources[0] == LSNN_IMAGE ? MAX_INPUT : model->levels);
            if (sum > INT32_MAX)
                refuse(in, LSNN_BAD_IMAGE, "codes: the sums of channel %ld could exceed int32", (long)c);
            else if (model->fraction) {
                const int64_t product = llabs((long long)made->scale[c].fixed) * sum;
                if (product > INT32_MAX)
                    refuse(in, LSNN_BAD_IMAGE, "scale: the products of channel %ld could exceed int32", (long)c);
                current += (product >> made->shift) + 1;
            }
        }
        if (model->fraction && current + llabs((long long)population->bias[c].fixed) > MAX_CURRENT)
            refuse(in, LSNN_BAD_IMAGE, "bias: the membranes of channel %ld could exceed int32", (long)c);
    }
}

/* `spikes`: the largest sum of those of one channel. */
static void prove_readout(reader *in, const lsnn_model *model, int64_t spikes)
{
    int32_t c;
    for (c = 0; c < model->classes && in->status == LSNN_OK; c++) {
        const int64_t sum = reach(&model->readout, c) * spikes; /* below 15 * MAX_READ * 64 timesteps * 7 levels */
        if (sum > INT32_MAX)
            refuse(in, LSNN_BAD_IMAGE, "readout: the sums of class %ld could exceed int32", (long)c);
        else if (model->fraction) {
            const int64_t product = llabs((long long)model->readout.scale[c].fixed) * sum;
            const int64_t bias = model->timesteps * llabs((long long)model->readout_bias[c].fixed);
            if (product > INT32_MAX || (product >> model->readout.shift) + 1 + bias > (1 << 23) - 1)
                refuse(in, LSNN_BAD_IMAGE, "readout: the logits of class %ld could be inexact", (long)c);
        }
    }
}

/* The neuron of a population: versions 1 and 3 have that of the model, with the hard reset.
 *
 * A soft reset of at most 2^30 keeps fixed membranes in int32: it takes from what is left of a membrane above the
 * threshold, which is not negative, and the currents take at most 2^30 more. */
static void neuron(reader *in, const lsnn_model *model, lsnn_population *made)
{
    made->leak = model->leak;
    if (in->version % 2)
        return;
    if (model->fraction) {
        real(in, 0.25f, 0.25f, "leak of fixed arithmetic");
        made->reset.fixed = integer(in, -1, MAX_CURRENT, "reset");
        made->soft = made->reset.fixed >= 0;
    } else {
        made->leak.real = real(in, 0.0f, 1.0f, "leak");
        made->reset.real = real(in, -1.0f, (float)MAX_RESET, "reset");
        made->soft = made->reset.real >= 0;
    }
    if (made->soft && model->levels > 1)
        refuse(in, LSNN_BAD_IMAGE, "reset: graded spikes have the hard one, found a soft one");
}

static void population(reader *in, lsnn_model *model, int32_t index)
{
    lsnn_population *made = &model->populations[index];
    int32_t e;
    made->channels = integer(in, 1, MAX_NEURONS, "channels");
    made->bundle_count = integer(in, 1, MAX_POPULATIONS, "bundles");
    in->bundles += made->bundle_count;
    if (in->bundles > MAX_BUNDLES)
        refuse(in, LSNN_BAD_IMAGE, "bundles: expected at most %d in all", MAX_BUNDLES);
    neuron(in, model, made);
    made->rate = real(in, -1.0f, 1.0f, "rate");
    made->bias = numbers(in, made->channels, model->fraction != 0, "bias");
    if (left(in) / 24 < (size_t)made->bundle_count) /* each takes at least six words */
        refuse(in, LSNN_BAD_IMAGE, "bundles: the image ends too early");
    made->bundles = reserve(in, (size_t)made->bundle_count, sizeof *made->bundles);
    if (!made->bundles)
        made->bundle_count = 0;
    for (e = 0; e < made->bundle_count && in->status == LSNN_OK; e++)
        bundle(in, model, index, e);
    if (in->status == LSNN_OK)
        prove_population(in, model, made);
}

static void readout(reader *in, lsnn_model *model)
{
    lsnn_synapses *made = &model->readout;
    int32_t height, width;
    made->kernel = made->stride = 1;
    made->bits = integer(in, 1, 4, "readout bits");
    made->shift = integer(in, 0, model->fraction ? MAX_SHIFT : 0, "readout shift");
    model->readout_fraction = integer(in, 0, model->fraction ? MAX_FRACTION : 0, "readout fraction");
    sources(in, model, model->population_count, 0, made, &height, &width);
    if (in->status != LSNN_OK)
        return;
    made->scale = numbers(in, model->classes, model->fraction != 0, "readout scale");
    model->readout_bias = numbers(in, model->classes, model->fraction != 0, "readout bias");
    if ((int64_t)made->inputs * model->classes > MAX_WEIGHTS)
        refuse(in, LSNN_BAD_IMAGE, "readout: expected at most %d weights in all", MAX_WEIGHTS);
    else
        made->codes = codes(in, (int64_t)made->inputs * model->classes, made->bits, "readout codes");
    if (in->status == LSNN_OK)
        prove_readout(in, model, (int64_t)height * width * model->timesteps * model->levels);
}

static void input(reader *in, lsnn_model *model)
{
    int32_t c;
    if (left(in) / 8 < (size_t)model->channels)
        refuse(in, LSNN_BAD_IMAGE, "mean: the image ends too early");
    model->mean = reserve(in, (size_t)model->channels, sizeof *model->mean);
    model->std = reserve(in, (size_t)model->channels, sizeof *model->std);
    for (c = 0; model->mean && c < model->channels; c++)
        model->mean[c] = real(in, -FLT_MAX, FLT_MAX, "mean");
    for (c = 0; model->std && c < model->channels; c++) {
        model->std[c] = real(in, 0.0f, FLT_MAX, "std");
        if (in->status == LSNN_OK && !(model->std[c] > 0))
            refuse(in, LSNN_BAD_IMAGE, "std: expected numbers above zero");
    }
}

static void header(reader *in, lsnn_model *model, size_t size)
{
    if (word(in) != 0x4e4e534cu)
        refuse(in, LSNN_BAD_IMAGE, "expected an engine image, which begins with LSNN");
    in->version = word(in);
    if (in->version < 1 || in->version > 4)
        refuse(in, LSNN_BAD_IMAGE, "version: expected 1 to 4");
    if (word(in) != size)
        refuse(in, LSNN_BAD_IMAGE, "size: expected the bytes of the image, %lu", (unsigned long)size);
    model->timesteps = integer(in, 1, MAX_TIMESTEPS, "timesteps");
    model->channels = integer(in, 1, MAX_NEURONS, "channels");
    model->height = integer(in, 1, MAX_NEURONS, "height");
    model->width = integer(in, 1, MAX_NEURONS, "width");
    model->kind = integer(in, LSNN_PIXELS, LSNN_COUNTS, "kind");
    count_neurons(in, (int64_t)lsnn_frames(model) * model->channels, model->height, model->width);
    model->classes = integer(in, 1, MAX_CLASSES, "classes");
    model->population_count = integer(in, 1, MAX_POPULATIONS, "populations");
    model->fraction = integer(in, 0, MAX_FRACTION, "fraction");
    if (model->fraction) {
        if (real(in, 0.25f, 0.25f, "leak of fixed arithmetic") == 0.25f)
            model->leak.fixed = 2; /* a shift */
        model->threshold.fixed = integer(in, 1, MAX_CURRENT, "threshold");
    } else {
        model->leak.real = real(in, 0.0f, 1.0f, "leak");
        model->threshold.real = real(in, 0.0f, FLT_MAX, "threshold");
        if (in->status == LSNN_OK && !(model->threshold.real > 0))
            refuse(in, LSNN_BAD_IMAGE, "threshold: expected a number above zero");
    }
    model->levels = in->version > 2 ? integer(in, 2, MAX_LEVELS, "levels") : 1;
}

int lsnn_model_load(lsnn_model *model, const void *image, size_t size, char *message, size_t message_size)
{
    reader in;
    int32_t i;
    memset(model, 0, sizeof *model);
    memset(&in, 0, sizeof in);
    in.at = image;
    in.end = in.at + size;
    in.message = message;
    in.message_size = message_size;
    if (message_size)
        message[0] = '\0';
    header(&in, model, size);
    input(&in, model);
    if (in.status == LSNN_OK && left(&in) / 12 < (size_t)model->population_count)
        refuse(&in, LSNN_BAD_IMAGE, "populations: the image ends too early");
    model->populations = reserve(&in, (size_t)model->population_count, sizeof *model->populations);
    if (!model->populations)
        model->population_count = 0;
    for (i = 0; i < model->population_count && in.status == LSNN_OK; i++)
        population(&in, model, i);
    if (in.status == LSNN_OK)
        readout(&in, model);
    if (in.status == LSNN_OK && left(&in))
        refuse(&in, LSNN_BAD_IMAGE, "expected the end of the image, found %lu more bytes", (unsigned long)left(&in));
    if (in.status != LSNN_OK)
        lsnn_model_free(model);
    return in.status;
}

static void free_bundle(lsnn_synapses *made)
{
    free(made->sources);
    free(made->scale);
    free(made->codes);
}

void lsnn_model_free(lsnn_model *model)
{
    int32_t i, e;
    for (i = 0; i < model->population_count; i++) {
        lsnn_population *made = &model->populations[i];
        for (e = 0; e < made->bundle_count; e++)
            free_bundle(&made->bundles[e]);
        free(made->bundles);
        free(made->bias);
    }
    free(model->populations);
    free_bundle(&model->readout);
    free(model->readout_bias);
    free(model->mean);
    free(model->std);
    memset(model, 0, sizeof *model);
}
