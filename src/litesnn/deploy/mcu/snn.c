/* The network: image, populations in order, readout. */
#include "snn_strict.h"

#include "snn.h"

#include <string.h>

#include "snn_internal.h"

static snn_real currents[SNN_CURRENTS]; /* [T or 1, H, W] of one channel */
static snn_count counts[SNN_COUNTS];    /* spikes [C, T] that the readout weighs */

#if SNN_TRACE
void (*snn_watch)(int population);
#endif

/* The steps of the input: clip(round(32 * (x - mean) / std), -127, 127), halves to even. Returns 0 if not finite. */
static int quantize(snn_input x, uint32_t channel, int8_t *steps) {
#if SNN_FIXED && SNN_IMAGE_INPUT
    *steps = snn_network.image.steps[256u * channel + x];
#elif SNN_FIXED
    (void)channel;
    *steps = x;
#else
    const float to_integer = 12582912.0f; /* 1.5 * 2^23: floats beside it are integers */
    float value = (float)x;
    if (!(value - value == 0.0f)) {
        return 0;
    }
    value = value - snn_network.image.mean[channel];
    value = value / snn_network.image.std[channel];
    value = 32.0f * value;
    if (value > 127.0f) {
        value = 127.0f;
    } else if (value < -127.0f) {
        value = -127.0f;
    }
    value = value + to_integer;
    value = value - to_integer;
    *steps = (int8_t)value;
#endif
    return 1;
}

static int load_image(const snn_input *input) {
    const snn_image *image = &snn_network.image;
    int8_t *bytes = (int8_t *)snn_arena + image->first;
    uint32_t frame, c, y, x;
    memset(bytes - image->lead, 0, image->lead + SNN_FRAMES * image->channels * image->plane);
    for (frame = 0; frame < SNN_FRAMES; frame++) {
        for (c = 0; c < image->channels; c++, bytes += image->plane) {
            for (y = 0; y < image->height; y++) {
                for (x = 0; x < image->width; x++) {
                    if (!quantize(*input++, c, &bytes[y * image->pitch + x])) {
                        return 0;
                    }
                }
            }
        }
    }
    return 1;
}

static const snn_grid *grid_of(uint32_t map) {
    return &snn_network.grids[snn_network.maps[map].grid];
}

/* A map with no spikes, and the zeros before it. */
static void clear_map(const snn_map *map) {
    uint32_t words = (uint32_t)map->channels * map->planes * snn_network.grids[map->grid].words;
    memset(&snn_arena[map->first - map->guard], 0, (map->guard + words) * sizeof snn_arena[0]);
}

/* The planes that a stride of s reads, one for each (y mod s, x mod s), from the plain map of a population. */
static void fold_map(const snn_fold *fold) {
    const snn_map *from = &snn_network.maps[fold->from];
    const snn_map *to = &snn_network.maps[fold->to];
    const snn_grid *wide = grid_of(fold->from);
    const snn_grid *narrow = grid_of(fold->to);
    uint32_t s = fold->stride;
    uint32_t c, t, y, x;
    clear_map(to);
    for (c = 0; c < from->channels; c++) {
        const uint32_t *plane = &snn_arena[from->first + c * wide->words];
        uint32_t *planes = &snn_arena[to->first + c * to->planes * narrow->words];
        for (t = 0; t < SNN_STEPS; t++) {
            for (y = 0; y < wide->height; y++) {
                uint32_t lane = t * wide->frame + y * wide->pitch;
                uint32_t row = t * narrow->frame + y / s * narrow->pitch;
                uint32_t column = 0;
                uint32_t phase = 0;
                for (x = 0; x < wide->width; x++, lane++) {
                    if (plane[lane >> 5] >> (lane & 31u) & 1u) {
                        uint32_t *target = planes + (y % s * s + phase) * narrow->words;
                        target[(row + column) >> 5] |= 1u << ((row + column) & 31u);
                    }
                    if (++phase == s) {
                        phase = 0;
                        column++;
                    }
                }
            }
        }
    }
}

static void add_current(uint32_t place, int first, snn_real current) {
    currents[place] = first ? current : currents[place] + current;
}

/* Currents of weights on the image, which are the same at every step, or on the frame of each step. */
static void image_currents(const snn_bundle *bundle, uint32_t count, const snn_grid *grid, uint32_t frames,
                           snn_scale scale, int first) {
    const snn_image *image = &snn_network.image;
    const int8_t *start = (const int8_t *)snn_arena + image->first - image->lead;
    uint32_t pixels = (uint32_t)grid->height * grid->width;
    uint32_t place = 0;
    uint32_t i, frame, t, y, x;
    for (i = 0; i < count; i++) { /* offset from `start`, and code */
        uint32_t weight = snn_row[i];
        uint32_t offset = SNN_CHANNEL(weight) * image->plane + image->lead;
        offset += (uint32_t)(int32_t)bundle->taps[SNN_TAP(weight)].offset;
        snn_row[i] = offset << 5 | (weight & 31u);
    }
    for (y = 0; y < grid->height; y++) {
        for (x = 0; x < grid->width; x++, place++) {
            const int8_t *corner = start + bundle->stride * (y * image->pitch + x);
            for (frame = 0; frame < SNN_FRAMES; frame++) {
                const int8_t *pixel = corner + frame * image->channels * image->plane;
                uint32_t end = SNN_FRAMES == 1 ? frames : frame + 1;
                int32_t sum = 0;
                for (i = 0; i < count; i++) {
                    sum += SNN_CODE(snn_row[i]) * pixel[snn_row[i] >> 5];
                }
                for (t = frame; t < end; t++) {
                    add_current(t * pixels + place, first, snn_current(scale, bundle->shift, sum));
                }
            }
        }
    }
}

/* The sum of a binary step at a lane: of snn_sums, or the spike itself for an identity. */
static int32_t sum_at(const uint32_t *identity, uint32_t margin, uint32_t lane) {
    return identity ? (int32_t)(identity[lane >> 5] >> (lane & 31u) & 1u) : snn_sums[margin + lane];
}

/* Currents of sums of spikes: snn_sums, or the spikes themselves for an identity. */
static void spike_currents(const snn_bundle *bundle, const uint32_t *identity, const snn_grid *grid, uint32_t margin,
                           snn_scale scale, int first) {
    uint32_t place = 0;
    uint32_t t, y, x, bit;
    for (t = 0; t < SNN_TIMESTEPS; t++) {
        for (y = 0; y < grid->height; y++) {
            uint32_t lane = t * SNN_SPIKE_BITS * grid->frame + y * grid->pitch;
            for (x = 0; x < grid->width; x++, lane++, place++) {
                int32_t sum = sum_at(identity, margin, lane);
                for (bit = 1; bit < SNN_SPIKE_BITS; bit++) {
                    sum += sum_at(identity, margin, lane + bit * grid->frame) * (1 << bit);
                }
                add_current(place, first, snn_current(scale, bundle->shift, sum));
            }
        }
    }
}

/* The plane of channel `channel` of the concatenated sources. */
static const uint32_t *plane_of(const uint8_t *maps, uint32_t channel) {
    while (channel >= snn_network.maps[*maps].channels) {
        channel -= snn_network.maps[*maps++].channels;
    }
    return &snn_arena[snn_network.maps[*maps].first + channel * grid_of(*maps)->words];
}

/* The spike of a membrane: how many thresholds it is above, of which each is at least the one before. */
static int spike_of(snn_real u) {
#if SNN_LEVELS > 1
    static const snn_real thresholds[SNN_LEVELS] = SNN_THRESHOLDS;
    int spike = 0;
    while (spike < SNN_LEVELS && u > thresholds[spike]) {
        spike++;
    }
    return spike;
#else
    return u > SNN_THRESHOLD;
#endif
}

/* Leak, fire and reset: spikes of one channel from its currents. */
static void fire(const snn_population *population, uint32_t channel, const snn_grid *grid) {
    const snn_map *map = &snn_network.maps[population->map];
    uint32_t *plane = &snn_arena[map->first + channel * grid->words];
    snn_real bias = snn_bias(population->bias[channel], population->bias_shift);
#if SNN_OWN_NEURONS
    const snn_neuron *neuron = &population->neuron;
#else
    static const snn_neuron of_all = SNN_NEURON;
    const snn_neuron *neuron = &of_all;
#endif
    uint32_t pixels = (uint32_t)grid->height * grid->width;
    uint32_t place = 0;
    uint32_t t, y, x, bit;
    for (y = 0; y < grid->height; y++) {
        for (x = 0; x < grid->width; x++, place++) {
            snn_real u = 0;
            int spike = 0;
            for (t = 0; t < SNN_TIMESTEPS; t++) {
                snn_real current = currents[population->frames == 1 ? place : t * pixels + place] + bias;
                u = snn_membrane(neuron, u, spike, current);
                spike = spike_of(u);
                for (bit = 0; bit < SNN_SPIKE_BITS; bit++) {
                    if (spike >> bit & 1) {
                        uint32_t lane = (t * SNN_SPIKE_BITS + bit) * grid->frame + y * grid->pitch + x;
                        plane[lane >> 5] |= 1u << (lane & 31u);
                    }
                }
            }
        }
    }
}

static void run_population(const snn_population *population) {
    snn_cursor cursors[SNN_BUNDLES];
    const snn_map *map = &snn_network.maps[population->map];
    const snn_grid *grid = &snn_network.grids[map->grid];
    uint32_t margin = grid->frame - (uint32_t)grid->height * grid->pitch + grid->pitch - grid->width;
    uint32_t c, i;
    for (i = 0; i < population->fold_count; i++) {
        fold_map(&population->folds[i]);
    }
    clear_map(map);
    for (i = 0; i < population->bundle_count; i++) {
        snn_rewind(&population->bundles[i].weights, &cursors[i]);
    }
    for (c = 0; c < map->channels; c++) {
        for (i = 0; i < population->bundle_count; i++) {
            const snn_bundle *bundle = &population->bundles[i];
            snn_scale scale = bundle->scale[c];
            uint32_t count;
            if (bundle->kind == SNN_IDENTITY) {
                spike_currents(bundle, plane_of(bundle->maps, c), grid, margin, scale, i == 0);
                continue;
            }
            count = snn_decode(&bundle->weights, &cursors[i], c);
            if (bundle->kind == SNN_FROM_IMAGE) {
                image_currents(bundle, count, grid, population->frames, scale, i == 0);
                continue;
            }
#if SNN_WITH_EVENTS
            if (bundle->kind == SNN_EVENTS) {
                snn_events_row(bundle, count, margin);
            }
#endif
#if SNN_WITH_SLICED
            if (bundle->kind == SNN_SLICED) {
                snn_sliced_row(bundle, count, margin);
            }
#endif
            spike_currents(bundle, 0, grid, margin, scale, i == 0);
        }
        fire(population, c, grid);
    }
}

/* Spikes of lanes `lane` to `end` - 1 of a plane. */
static uint32_t count_spikes(const uint32_t *plane, uint32_t lane, uint32_t end) {
    uint32_t count = 0;
    while (lane < end) {
        uint32_t bit = lane & 31u;
        uint32_t word = plane[lane >> 5] >> bit;
        uint32_t lanes = 32u - bit;
        if (end - lane < lanes) {
            lanes = end - lane;
            word &= (1u << lanes) - 1u;
        }
        for (; word; word &= word - 1) {
            count++;
        }
        lane += lanes;
    }
    return count;
}

static void read_out(snn_logit *logits) {
    const snn_readout *readout = &snn_network.readout;
    const snn_grid *grid = grid_of(readout->maps[0]);
    snn_cursor cursor;
    uint32_t c, k, t, i, bit;
    for (c = 0; c < readout->channels; c++) {
        const uint32_t *plane = plane_of(readout->maps, c);
        for (t = 0; t < SNN_TIMESTEPS; t++) {
            uint32_t count = 0;
            for (bit = 0; bit < SNN_SPIKE_BITS; bit++) { /* the lanes between pixels are zero */
                uint32_t step = t * SNN_SPIKE_BITS + bit;
                count += count_spikes(plane, step * grid->frame, (step + 1) * grid->frame) << bit;
            }
            counts[c * SNN_TIMESTEPS + t] = (snn_count)count;
        }
    }
    snn_rewind(&readout->weights, &cursor);
    for (k = 0; k < readout->classes; k++) {
        uint32_t count = snn_decode(&readout->weights, &cursor, k);
        int32_t total = 0;
        for (t = 0; t < SNN_TIMESTEPS; t++) {
            for (i = 0; i < count; i++) {
                total += SNN_CODE(snn_row[i]) * (int32_t)counts[SNN_CHANNEL(snn_row[i]) * SNN_TIMESTEPS + t];
            }
            logits[t * readout->classes + k] = snn_read(readout->scale[k], readout->shift, readout->bias[k],
                                                        readout->bias_shift, total, (int32_t)t + 1);
        }
    }
}

int snn_run(const snn_input *input, snn_logit *logits) {
    uint32_t i;
    if (!load_image(input)) {
        return 0;
    }
    for (i = 0; i < snn_network.population_count; i++) {
        run_population(&snn_network.populations[i]);
#if SNN_TRACE
        if (snn_watch) {
            snn_watch((int)i);
        }
#endif
    }
    read_out(logits);
    return 1;
}

int snn_class(const snn_logit *logits) {
    const snn_logit *last = logits + (SNN_TIMESTEPS - 1) * (uint32_t)snn_network.readout.classes;
    int best = 0;
    int k;
    for (k = 1; k < snn_network.readout.classes; k++) {
        if (last[k] > last[best]) {
            best = k;
        }
    }
    return best;
}

#if SNN_TRACE
int snn_spike(int population, int t, int channel, int y, int x) {
    const snn_map *map = &snn_network.maps[snn_network.populations[population].map];
    const snn_grid *grid = &snn_network.grids[map->grid];
    uint32_t lane = (uint32_t)t * SNN_SPIKE_BITS * grid->frame + (uint32_t)y * grid->pitch + (uint32_t)x;
    const uint32_t *plane = &snn_arena[map->first + (uint32_t)channel * grid->words];
    uint32_t spike = 0;
    uint32_t bit;
    for (bit = 0; bit < SNN_SPIKE_BITS; bit++, lane += grid->frame) {
        spike |= (plane[lane >> 5] >> (lane & 31u) & 1u) << bit;
    }
    return (int)spike;
}
#endif
