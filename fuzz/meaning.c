#include "meaning.h"

#include <math.h>
#include <stdlib.h>

static void *reserve(size_t count, size_t size)
{
    void *memory = calloc(count ? count : 1, size);
    if (!memory)
        abort();
    return memory;
}

static size_t size_of(const lsnn_population *population)
{
    return (size_t)population->channels * (size_t)population->height * (size_t)population->width;
}

static int8_t *quantize(const lsnn_model *model, const void *inputs, int32_t count)
{
    const size_t area = (size_t)model->height * (size_t)model->width;
    const size_t size = (size_t)count * (size_t)lsnn_frames(model) * (size_t)model->channels * area;
    int8_t *made = reserve(size, 1);
    size_t i;
    for (i = 0; i < size; i++) {
        const size_t channel = i / area % (size_t)model->channels;
        const float raw =
            model->kind == LSNN_NUMBERS ? ((const float *)inputs)[i] : (float)((const uint8_t *)inputs)[i];
        const float normal = (raw - model->mean[channel]) / model->std[channel];
        const float steps = rintf(32.0f * normal);
        made[i] = (int8_t)(steps < -127.0f ? -127.0f : steps > 127.0f ? 127.0f : steps);
    }
    return made;
}

/* Where the maps of a source are: the step and input that are computed, all its channels. */
typedef struct {
    const int8_t *image;
    const uint8_t *spikes;
    int32_t channels, height, width;
} map;

static map map_of(const lsnn_model *model, const meaning *made, const int8_t *image, int32_t source, size_t frame,
                  size_t step_sample)
{
    map found = {NULL, NULL, model->channels, model->height, model->width};
    if (source == LSNN_IMAGE)
        found.image = image + frame * (size_t)model->channels * (size_t)model->height * (size_t)model->width;
    else {
        const lsnn_population *population = &model->populations[source];
        found.spikes = made->spikes[source] + step_sample * size_of(population);
        found.channels = population->channels;
        found.height = population->height;
        found.width = population->width;
    }
    return found;
}

static int32_t value(const map *from, int32_t channel, int32_t y, int32_t x)
{
    const size_t at = ((size_t)channel * (size_t)from->height + (size_t)y) * (size_t)from->width + (size_t)x;
    if (y < 0 || y >= from->height || x < 0 || x >= from->width)
        return 0;
    return from->image ? from->image[at] : from->spikes[at];
}

/* The accumulator of one neuron for one bundle. */
static int64_t accumulate(const lsnn_model *model, const meaning *made, const int8_t *image,
                          const lsnn_synapses *synapses, int32_t channel, int32_t y, int32_t x, size_t frame,
                          size_t step_sample)
{
    const int32_t k = synapses->kernel;
    size_t at = (size_t)channel * (size_t)synapses->inputs * (size_t)k * (size_t)k;
    int64_t sum = 0;
    int32_t s, first = 0;
    for (s = 0; s < synapses->source_count; s++) {
        const map from = map_of(model, made, image, synapses->sources[s], frame, step_sample);
        int32_t c, row, column;
        if (!k && channel >= first && channel < first + from.channels)
            sum = value(&from, channel - first, y, x);
        for (c = 0; c < from.channels; c++)
            for (row = 0; row < k; row++)
                for (column = 0; column < k; column++, at++)
                    if (synapses->codes[at])
                        sum += synapses->codes[at] * value(&from, c, y * synapses->stride + row - k / 2,
                                                           x * synapses->stride + column - k / 2);
        first += from.channels;
    }
    return sum;
}

/* One neuron for all timesteps. */
static void fire(const lsnn_model *model, const meaning *made, const int8_t *image, int32_t p, int32_t channel,
                 int32_t y, int32_t x, int32_t sample, int32_t count)
{
    const lsnn_population *population = &model->populations[p];
    const size_t at = ((size_t)channel * (size_t)population->height + (size_t)y) * (size_t)population->width + (size_t)x;
    float u = 0;
    int64_t membrane = 0;
    int spiked = 0;
    int32_t t, b;
    for (t = 0; t < model->timesteps; t++) {
        const size_t step_sample = (size_t)t * (size_t)count + (size_t)sample;
        const int32_t frames = lsnn_frames(model);
        const size_t frame = (size_t)sample * (size_t)frames + (size_t)(frames > 1 ? t : 0);
        float current = 0;
        int64_t fixed = 0;
        for (b = 0; b < population->bundle_count; b++) {
            const lsnn_synapses *synapses = &population->bundles[b];
            const lsnn_number scale = synapses->scale[channel];
            const int64_t sum = accumulate(model, made, image, synapses, channel, y, x, frame, step_sample);
            if (model->fraction)
                fixed += (sum * scale.fixed) >> synapses->shift;
            else {
                const float share = scale.real * (float)sum;
                current = b ? current + share : share;
            }
        }
        if (model->fraction) {
            const int64_t left = membrane >> population->leak.fixed;
            const int64_t kept = !spiked ? left : population->soft ? left - population->reset.fixed : 0;
            membrane = kept + fixed + population->bias[channel].fixed;
            if (membrane < INT32_MIN || membrane > INT32_MAX)
                abort(); /* the loader has proven that it is not */
            for (spiked = 0; spiked < model->levels; spiked++)
                if (membrane <= model->threshold.fixed + ((int64_t)spiked << model->fraction))
                    break;
        } else {
            const float leaked = population->leak.real * u;
            const float less = leaked - population->reset.real;
            const float kept = !spiked ? leaked : population->soft ? less : 0;
            current = current + population->bias[channel].real;
            u = kept + current;
            for (spiked = 0; spiked < model->levels; spiked++)
                if (!(u > model->threshold.real + (float)spiked))
                    break;
        }
        made->spikes[p][step_sample * size_of(population) + at] = (uint8_t)spiked;
    }
}

static void read_out(const lsnn_model *model, const meaning *made, int32_t sample, int32_t count)
{
    const lsnn_synapses *readout = &model->readout;
    int32_t k, t, s, c;
    for (k = 0; k < model->classes; k++) {
        int64_t total = 0;
        for (t = 0; t < model->timesteps; t++) {
            const size_t step_sample = (size_t)t * (size_t)count + (size_t)sample;
            const int8_t *code = readout->codes + (size_t)k * (size_t)readout->inputs;
            float *logit = made->logits + step_sample * (size_t)model->classes + (size_t)k;
            for (s = 0; s < readout->source_count; s++) {
                const map from = map_of(model, made, NULL, readout->sources[s], 0, step_sample);
                for (c = 0; c < from.channels; c++, code++) {
                    const size_t area = (size_t)from.height * (size_t)from.width;
                    size_t i;
                    for (i = 0; i < area; i++)
                        total += *code * from.spikes[(size_t)c * area + i];
                }
            }
            if (model->fraction) {
                const int64_t z = ((total * readout->scale[k].fixed) >> readout->shift) +
                                  (int64_t)(t + 1) * model->readout_bias[k].fixed;
                *logit = (float)z / (float)((int64_t)(t + 1) << model->readout_fraction);
            } else {
                const float sum = readout->scale[k].real * (float)total;
                const float mean = sum / (float)(t + 1);
                *logit = mean + model->readout_bias[k].real;
            }
        }
    }
}

meaning meaning_of(const lsnn_model *model, const void *inputs, int32_t count)
{
    const size_t samples = (size_t)model->timesteps * (size_t)count;
    int8_t *image = quantize(model, inputs, count);
    meaning made;
    int32_t p, c, y, x, n;
    made.logits = reserve(samples * (size_t)model->classes, sizeof *made.logits);
    made.spikes = reserve((size_t)model->population_count, sizeof *made.spikes);
    for (p = 0; p < model->population_count; p++) {
        const lsnn_population *population = &model->populations[p];
        made.spikes[p] = reserve(samples * size_of(population), 1);
        for (n = 0; n < count; n++)
            for (c = 0; c < population->channels; c++)
                for (y = 0; y < population->height; y++)
                    for (x = 0; x < population->width; x++)
                        fire(model, &made, image, p, c, y, x, n, count);
    }
    for (n = 0; n < count; n++)
        read_out(model, &made, n, count);
    free(image);
    return made;
}

void meaning_free(const lsnn_model *model, meaning *made)
{
    int32_t p;
    for (p = 0; p < model->population_count; p++)
        free(made->spikes[p]);
    free(made->spikes);
    free(made->logits);
}

int64_t meaning_cost(const lsnn_model *model)
{
    const int64_t most = INT64_MAX / 4;
    double cost = 0;
    int32_t p, b;
    for (p = 0; p < model->population_count; p++) {
        const lsnn_population *population = &model->populations[p];
        const double neurons = (double)size_of(population) * model->timesteps;
        for (b = 0; b < population->bundle_count; b++) {
            const lsnn_synapses *synapses = &population->bundles[b];
            cost += neurons * (1 + (double)synapses->inputs * synapses->kernel * synapses->kernel);
        }
        cost += neurons * model->classes * model->readout.source_count;
    }
    return cost < (double)most ? (int64_t)cost : most;
}
