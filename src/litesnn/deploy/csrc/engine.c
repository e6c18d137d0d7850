/* The engine: a model, its plan, and the memory that it runs in. See litesnn.h. */
#include "litesnn.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "kernel.h"
#include "loader.h"
#include "maps.h"
#include "plan.h"
#include "threads.h"

#define LAYOUTS 4 /* batches of 1, 2, 4 and 8 inputs */
#define MAX_THREADS 256

/* What a worker has for itself. */
typedef struct {
    void *memory;     /* that the others lie in */
    uint64_t *tile;   /* shifted copies; those of worker 0 are shared where all work on the same tile */
    uint32_t *events; /* inputs of one neuron that spike */
    int32_t *sums;    /* of a row of neurons */
    uint64_t event_count;
} worker;

struct lsnn_engine {
    lsnn_model model;
    lsnn_plan plan;
    const lsnn_kernel_ops *ops;
    lsnn_pool *pool;
    lsnn_layout layouts[LAYOUTS]; /* batch 0: not made yet */
    void *block_memory;
    uint8_t *block;          /* aligned to tiles */
    size_t block_bytes;
    worker *workers;
    size_t worker_bytes;
    int8_t *quantize_table;  /* [C][256]; NULL for inputs of numbers */
    const uint8_t **channels; /* [inputs] planes of the group that is computed */
    int64_t *tap_bits;
    const uint8_t **planes;  /* [bundles of a population][channels] */
    lsnn_current *currents;
    uint8_t *ones;           /* [channels] planes that an identity's sums have */
    int32_t *zeros;          /* [channels] and what they are too large by */
    int64_t *totals;         /* [LSNN_MAX_BATCH][classes] of the readout */
    const lsnn_layout *current; /* whose masks are in the block */
};

/* --- One group of bundles. --- */

typedef struct {
    lsnn_engine *engine;
    const lsnn_layout *layout;
    const lsnn_group_plan *group;
    lsnn_shift_job shift;
    size_t plane_bytes; /* of the group's output */
    int64_t tile, tiles;
} group_job;

static size_t images_of(const group_job *job)
{
    return (size_t)job->engine->model.timesteps * (size_t)job->layout->batch;
}

/* The planes of the group's inputs, channel after channel. */
static void list_channels(const group_job *job)
{
    const lsnn_engine *engine = job->engine;
    int32_t s, c, n = 0;
    for (s = 0; s < job->group->source_count; s++) {
        const int32_t source = job->group->sources[s];
        const lsnn_population *population = &engine->model.populations[source];
        const size_t plane =
            lsnn_plane_bytes(&engine->model, job->layout->batch, population->height, population->width);
        for (c = 0; c < population->channels; c++)
            engine->channels[n++] = engine->block + job->layout->spikes[source] + (size_t)c * plane;
    }
}

static size_t phase_bytes(const group_job *job)
{
    return (size_t)lsnn_phases(job->group) * (size_t)lsnn_phases(job->group) * job->plane_bytes;
}

static void split_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    uint8_t *phases = job->engine->block + job->layout->copies[job->group - job->engine->plan.groups];
    int64_t c, last;
    for (lsnn_share(job->group->inputs, me, workers, &c, &last); c < last; c++)
        lsnn_split(job->group, images_of(job), job->engine->channels[c], job->plane_bytes,
                   phases + (size_t)c * phase_bytes(job));
}

/* Makes the shifted copies of input channels first..last-1 for one tile. */
static void shift_tile(const group_job *job, int64_t tile, int64_t first, int64_t last, uint64_t *to)
{
    job->engine->ops->shift(&job->shift, (int32_t)first, (int32_t)last, (size_t)tile * LSNN_TILE, to);
}

static void clear_zeros(const lsnn_group_plan *group, uint64_t *tile)
{
    const size_t segment = lsnn_segment_words(group->segment_inputs);
    int32_t s;
    for (s = 0; s < group->segments; s++)
        memset(tile + (size_t)s * segment + segment - LSNN_TILE_WORDS, 0, LSNN_TILE);
}

/* Sums a worker's share of the output channels of every bundle, for one tile. */
static void add_tile(const group_job *job, int64_t tile, int32_t me, int32_t workers, const uint64_t *copies)
{
    const lsnn_engine *engine = job->engine;
    int32_t m;
    for (m = 0; m < job->group->member_count; m++) {
        const int32_t index = job->group->members[m];
        const lsnn_bit_table *table = &engine->plan.bundles[index].table;
        int64_t first, last;
        lsnn_share(table->channels, me, workers, &first, &last);
        engine->ops->add(table, (int32_t)first, (int32_t)last, copies,
                         engine->block + job->layout->results[index] + (size_t)tile * LSNN_TILE, job->plane_bytes);
    }
}

/* Every worker takes some of the tiles. */
static void tiles_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    uint64_t *copies = job->engine->workers[me].tile;
    int64_t tile, last;
    clear_zeros(job->group, copies);
    for (lsnn_share(job->tiles, me, workers, &tile, &last); tile < last; tile++) {
        shift_tile(job, tile, 0, job->group->inputs, copies);
        add_tile(job, tile, 0, 1, copies);
    }
}

/* Too few tiles for that: every worker takes some of the channels, first of the inputs, then of the outputs. */
static void shift_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    int64_t first, last;
    lsnn_share(job->group->inputs, me, workers, &first, &last);
    shift_tile(job, job->tile, first, last, job->engine->workers[0].tile);
}

static void add_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    add_tile(job, job->tile, me, workers, job->engine->workers[0].tile);
}

static void run_bitsliced(group_job *job)
{
    lsnn_engine *engine = job->engine;
    const lsnn_group_plan *group = job->group;
    const size_t index = (size_t)(group - engine->plan.groups);
    const int64_t tiles = (int64_t)(job->plane_bytes / LSNN_TILE), workers = lsnn_pool_workers(engine->pool);
    int32_t m, c;
    list_channels(job);
    if (group->stride > 1) {
        lsnn_pool_run(engine->pool, split_task, job);
        for (c = 0; c < group->inputs; c++)
            engine->channels[c] = engine->block + job->layout->copies[index] + (size_t)c * phase_bytes(job);
    }
    lsnn_tap_bits(group, job->plane_bytes, engine->tap_bits);
    job->shift.channels = engine->channels;
    job->shift.inputs = group->inputs;
    job->shift.taps = group->taps;
    job->shift.tap_bits = engine->tap_bits;
    job->shift.mask = engine->block + job->layout->masks[index];
    job->shift.mask_bytes = job->plane_bytes;
    job->shift.segment_inputs = group->segment_inputs;
    job->shift.segment_words = lsnn_segment_words(group->segment_inputs);
    job->tiles = tiles;
    if (tiles % workers == 0 || tiles > 4 * workers)
        lsnn_pool_run(engine->pool, tiles_task, job);
    else
        for (job->tile = 0; job->tile < tiles; job->tile++) {
            clear_zeros(group, engine->workers[0].tile);
            lsnn_pool_run(engine->pool, shift_task, job);
            lsnn_pool_run(engine->pool, add_task, job);
        }
    for (m = 0; m < group->member_count; m++) {
        lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        const uint64_t entries = bundle->table.blocks * 8 * (uint64_t)tiles;
        bundle->additions += entries * LSNN_TILE * 8;
        bundle->words += entries * (LSNN_TILE / (uint64_t)engine->ops->vector_bytes);
    }
}

/* Sums the rows of all inputs of one neuron position that spike, for every bundle. */
static void gather_at(const group_job *job, worker *mine, const uint64_t *marks, size_t words, size_t n, int32_t y,
                      int32_t x)
{
    const lsnn_engine *engine = job->engine;
    const lsnn_group_plan *group = job->group;
    const int32_t border = group->kernel / 2;
    const size_t image = lsnn_image_bytes(group->out_height, group->out_width);
    const size_t bytes = (size_t)job->layout->batch * image, pixel = (size_t)y * (size_t)group->out_width + (size_t)x;
    const size_t t = n / (size_t)job->layout->batch, byte = n % (size_t)job->layout->batch * image + pixel / 8;
    const size_t position = (8 * t + pixel % 8) * bytes + byte;
    size_t count = 0, w;
    int32_t ky, kx, m, c;
    for (ky = 0; ky < group->kernel; ky++)
        for (kx = 0; kx < group->kernel; kx++) {
            const int32_t row = y * group->stride + ky - border, column = x * group->stride + kx - border;
            const uint32_t tap = (uint32_t)(ky * group->kernel + kx);
            const uint64_t *at;
            if (row < 0 || row >= group->height || column < 0 || column >= group->width)
                continue;
            at = marks + ((n * (size_t)group->height + (size_t)row) * (size_t)group->width + (size_t)column) * words;
            for (w = 0; w < words; w++) {
                uint64_t bits = at[w];
                for (; bits; bits &= bits - 1) {
                    const uint32_t channel = (uint32_t)w * 64 + (uint32_t)lsnn_count_zeros(bits);
                    mine->events[count++] = channel * (uint32_t)group->taps + tap;
                }
            }
        }
    mine->event_count += count;
    for (m = 0; m < group->member_count; m++) {
        const lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        const int32_t channels = engine->model.populations[bundle->population].channels;
        int32_t *sums = (int32_t *)(void *)(engine->block + job->layout->results[group->members[m]]) + position;
        engine->ops->gather(bundle->rows, bundle->row_stride, mine->events, count, mine->sums);
        for (c = 0; c < channels; c++)
            sums[(size_t)c * images_of(job) * image * 8] = mine->sums[c];
    }
}

static void gather_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    const lsnn_group_plan *group = job->group;
    const uint64_t *marks =
        (const uint64_t *)(const void *)(job->engine->block + job->layout->copies[group - job->engine->plan.groups]);
    int64_t row, last;
    int32_t x;
    for (lsnn_share((int64_t)images_of(job) * group->out_height, me, workers, &row, &last); row < last; row++)
        for (x = 0; x < group->out_width; x++)
            gather_at(job, &job->engine->workers[me], marks, ((size_t)group->inputs + 63) / 64,
                      (size_t)(row / group->out_height), (int32_t)(row % group->out_height), x);
}

static void run_gather(group_job *job)
{
    lsnn_engine *engine = job->engine;
    const lsnn_group_plan *group = job->group;
    const size_t area = (size_t)group->height * (size_t)group->width, words = ((size_t)group->inputs + 63) / 64;
    uint64_t *marks = (uint64_t *)(void *)(engine->block + job->layout->copies[group - engine->plan.groups]);
    uint64_t events = 0;
    int32_t c, i, m;
    list_channels(job);
    memset(marks, 0, images_of(job) * area * words * sizeof *marks);
    for (m = 0; m < group->member_count; m++) /* the sums of bits that are no pixels */
        if ((size_t)group->out_height * (size_t)group->out_width % 8) {
            const lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
            memset(engine->block + job->layout->results[group->members[m]], 0,
                   (size_t)engine->model.populations[bundle->population].channels * images_of(job) *
                       lsnn_image_bytes(group->out_height, group->out_width) * 8 * sizeof(int32_t));
        }
    for (c = 0; c < group->inputs; c++)
        lsnn_mark(engine->channels[c], images_of(job), area, c, words, marks);
    for (i = 0; i < lsnn_pool_workers(engine->pool); i++)
        engine->workers[i].event_count = 0;
    lsnn_pool_run(engine->pool, gather_task, job);
    for (i = 0; i < lsnn_pool_workers(engine->pool); i++)
        events += engine->workers[i].event_count;
    for (m = 0; m < group->member_count; m++) {
        lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        bundle->additions += events * bundle->row_stride;
        bundle->words += events * (bundle->row_stride / (size_t)engine->ops->vector_bytes);
    }
}

static void analog_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    const lsnn_engine *engine = job->engine;
    const lsnn_group_plan *group = job->group;
    const size_t pixels = (size_t)job->layout->batch * lsnn_image_bytes(group->out_height, group->out_width) * 8;
    const int8_t *copies =
        (const int8_t *)(engine->block + job->layout->copies[group - engine->plan.groups]);
    const int32_t inputs = group->inputs * group->taps;
    int32_t m;
    for (m = 0; m < group->member_count; m++) {
        const lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        int32_t *sums = (int32_t *)(void *)(engine->block + job->layout->results[group->members[m]]);
        int64_t c, last;
        for (lsnn_share(engine->model.populations[bundle->population].channels, me, workers, &c, &last); c < last; c++)
            engine->ops->weigh(bundle->synapses->codes + c * inputs, inputs, copies, pixels, pixels,
                               sums + (size_t)c * pixels);
    }
}

static void pixels_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    const lsnn_group_plan *group = job->group;
    int64_t first, last;
    lsnn_share(group->inputs, me, workers, &first, &last);
    lsnn_shift_pixels(group, (const int8_t *)(job->engine->block + job->layout->input), job->layout->batch,
                      (int32_t)first, (int32_t)last,
                      (int8_t *)(job->engine->block + job->layout->copies[group - job->engine->plan.groups]));
}

static void run_analog(group_job *job)
{
    lsnn_engine *engine = job->engine;
    const lsnn_group_plan *group = job->group;
    const uint64_t pixels = (uint64_t)job->layout->batch * lsnn_image_bytes(group->out_height, group->out_width) * 8;
    int32_t m;
    lsnn_pool_run(engine->pool, pixels_task, job);
    lsnn_pool_run(engine->pool, analog_task, job);
    for (m = 0; m < group->member_count; m++) {
        lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        const uint64_t sums = pixels * (uint64_t)engine->model.populations[bundle->population].channels *
                              (uint64_t)group->inputs * (uint64_t)group->taps;
        bundle->additions += sums;
        bundle->words += sums * sizeof(int32_t) / (uint64_t)engine->ops->vector_bytes;
    }
}

static void run_group(lsnn_engine *engine, const lsnn_layout *layout, const lsnn_group_plan *group)
{
    group_job job;
    memset(&job, 0, sizeof job);
    job.engine = engine;
    job.layout = layout;
    job.group = group;
    job.plane_bytes = lsnn_plane_bytes(&engine->model, layout->batch, group->out_height, group->out_width);
    if (group->method == LSNN_BITSLICED)
        run_bitsliced(&job);
    else if (group->method == LSNN_GATHER)
        run_gather(&job);
    else
        run_analog(&job);
}

/* --- One population. --- */

typedef struct {
    const lsnn_engine *engine;
    lsnn_fire_job fire;
} population_job;

static void fire_task(void *context, int32_t me, int32_t workers)
{
    const population_job *job = context;
    int64_t first, last;
    lsnn_share((int64_t)lsnn_chunks(job->fire.channels, job->fire.bytes), me, workers, &first, &last);
    job->engine->ops->fire(&job->fire, (size_t)first, (size_t)last);
}

/* The sum of a bundle, as `fire` takes it. `planes` [channels] is where its list goes. */
static lsnn_current current_of(const lsnn_engine *engine, const lsnn_layout *layout, int32_t index,
                               const uint8_t **planes)
{
    const lsnn_bundle_plan *bundle = &engine->plan.bundles[index];
    const lsnn_population *population = &engine->model.populations[bundle->population];
    uint8_t *result = engine->block + layout->results[index];
    lsnn_current current;
    int32_t c, s, n = 0;
    memset(&current, 0, sizeof current);
    current.scale = bundle->synapses->scale;
    current.shift = bundle->synapses->shift;
    current.plane_bytes = lsnn_plane_bytes(&engine->model, layout->batch, population->height, population->width);
    if (bundle->method == LSNN_BITSLICED) {
        for (c = 0; c < population->channels; c++)
            planes[c] = result + (size_t)c * (size_t)bundle->table.planes * current.plane_bytes;
        current.planes = planes;
        current.used = bundle->table.used;
        current.excess = bundle->table.excess;
    } else if (bundle->method == LSNN_IDENTITY) {
        for (s = 0; s < bundle->synapses->source_count; s++) {
            const int32_t source = bundle->synapses->sources[s];
            for (c = 0; c < engine->model.populations[source].channels; c++)
                planes[n++] = engine->block + layout->spikes[source] + (size_t)c * current.plane_bytes;
        }
        current.planes = planes;
        current.used = engine->ones;
        current.excess = engine->zeros;
    } else {
        current.sums = (const int32_t *)(const void *)result;
        current.sums_constant = bundle->method == LSNN_ANALOG;
    }
    return current;
}

static void run_population(lsnn_engine *engine, const lsnn_layout *layout, int32_t p)
{
    const lsnn_population *population = &engine->model.populations[p];
    const int32_t first = engine->plan.first_bundle[p], last = engine->plan.first_bundle[p + 1];
    const size_t images = (size_t)engine->model.timesteps * (size_t)layout->batch;
    const size_t pixels = (size_t)population->height * (size_t)population->width;
    population_job job;
    int32_t b, c;
    for (b = first; b < last; b++) {
        lsnn_bundle_plan *bundle = &engine->plan.bundles[b];
        if (bundle->group >= 0 && engine->plan.groups[bundle->group].members[0] == b)
            run_group(engine, layout, &engine->plan.groups[bundle->group]);
        engine->currents[b - first] =
            current_of(engine, layout, b, engine->planes + (size_t)(b - first) * (size_t)population->channels);
        if (bundle->method == LSNN_IDENTITY)
            bundle->additions += (uint64_t)population->channels * images * pixels;
    }
    job.engine = engine;
    job.fire.timesteps = engine->model.timesteps;
    job.fire.channels = population->channels;
    job.fire.current_count = last - first;
    job.fire.fraction = engine->model.fraction;
    job.fire.bytes = (size_t)layout->batch * lsnn_image_bytes(population->height, population->width);
    job.fire.currents = engine->currents;
    job.fire.bias = population->bias;
    job.fire.leak = engine->model.leak;
    job.fire.threshold = engine->model.threshold;
    job.fire.spikes = engine->block + layout->spikes[p];
    job.fire.spike_bytes = lsnn_plane_bytes(&engine->model, layout->batch, population->height, population->width);
    lsnn_pool_run(engine->pool, fire_task, &job);
    for (c = 0; c < population->channels; c++)
        lsnn_clear_padding(job.fire.spikes + (size_t)c * job.fire.spike_bytes, images, pixels);
}

/* --- A batch. --- */

static void record(const lsnn_engine *engine, const lsnn_layout *layout, int32_t p, size_t first, size_t count,
                   uint8_t *out)
{
    const lsnn_population *population = &engine->model.populations[p];
    const size_t pixels = (size_t)population->height * (size_t)population->width;
    const size_t image = lsnn_image_bytes(population->height, population->width);
    const size_t plane = lsnn_plane_bytes(&engine->model, layout->batch, population->height, population->width);
    const size_t channels = (size_t)population->channels, batch = (size_t)layout->batch;
    size_t t, n, c;
    for (t = 0; t < (size_t)engine->model.timesteps; t++)
        for (n = 0; n < batch; n++)
            for (c = 0; c < channels; c++)
                lsnn_expand(engine->block + layout->spikes[p] + c * plane + (t * batch + n) * image, pixels,
                            out + (((t * count + first + n) * channels) + c) * pixels);
}

static float logit(const lsnn_engine *engine, int32_t class, int64_t total, int32_t step)
{
    const lsnn_model *model = &engine->model;
    const lsnn_number scale = model->readout.scale[class], bias = model->readout_bias[class];
    if (model->fraction) {
        const int64_t z = ((total * scale.fixed) >> model->readout.shift) + (int64_t)step * bias.fixed;
        return (float)z / ((float)step * (float)((int32_t)1 << model->readout_fraction));
    } else {
        const float sum = scale.real * (float)(int32_t)total;
        const float mean = sum / (float)step;
        return mean + bias.real;
    }
}

static void read_out(lsnn_engine *engine, const lsnn_layout *layout, size_t first, size_t count, float *logits)
{
    const lsnn_model *model = &engine->model;
    const size_t classes = (size_t)model->classes, batch = (size_t)layout->batch;
    const int32_t inputs = model->readout.inputs;
    int32_t t, s, c, k;
    size_t n;
    memset(engine->totals, 0, batch * classes * sizeof *engine->totals);
    for (t = 0; t < model->timesteps; t++)
        for (n = 0; n < batch; n++) {
            int64_t *totals = engine->totals + n * classes;
            int32_t input = 0;
            for (s = 0; s < model->readout.source_count; s++) {
                const int32_t source = model->readout.sources[s];
                const lsnn_population *population = &model->populations[source];
                const size_t image = lsnn_image_bytes(population->height, population->width);
                const size_t plane = lsnn_plane_bytes(model, layout->batch, population->height, population->width);
                const uint8_t *from = engine->block + layout->spikes[source] + ((size_t)t * batch + n) * image;
                for (c = 0; c < population->channels; c++, input++, from += plane) {
                    const int32_t spikes = lsnn_count(from, image);
                    for (k = 0; spikes && k < model->classes; k++)
                        totals[k] += spikes * model->readout.codes[(int64_t)k * inputs + input];
                }
            }
            for (k = 0; k < model->classes; k++)
                logits[((size_t)t * count + first + n) * classes + (size_t)k] = logit(engine, k, totals[k], t + 1);
        }
}

static void make_masks(lsnn_engine *engine, const lsnn_layout *layout)
{
    const lsnn_plan *plan = &engine->plan;
    int32_t g;
    for (g = 0; g < plan->group_count; g++) {
        const lsnn_group_plan *group = &plan->groups[g];
        if (group->method == LSNN_BITSLICED)
            lsnn_make_masks(group, (size_t)engine->model.timesteps * (size_t)layout->batch,
                            lsnn_plane_bytes(&engine->model, layout->batch, group->out_height, group->out_width),
                            engine->block + layout->masks[g]);
    }
}

/* The layout for 2^which inputs, with its masks in place. */
static int use_layout(lsnn_engine *engine, int which, const lsnn_layout **found)
{
    lsnn_layout *layout = &engine->layouts[which];
    int status;
    *found = layout;
    if (!layout->batch) {
        status = lsnn_layout_make(layout, &engine->plan, 1 << which);
        if (status != LSNN_OK)
            return status;
    } else if (engine->current == layout)
        return LSNN_OK;
    if (engine->block_bytes < layout->bytes) {
        /* Zeroed, because guards are read before anything is written there. */
        void *memory = calloc(1, layout->bytes + LSNN_TILE);
        if (!memory)
            return LSNN_NO_MEMORY;
        free(engine->block_memory);
        engine->block_memory = memory;
        engine->block_bytes = layout->bytes;
        engine->block = (uint8_t *)memory + (LSNN_TILE - (uintptr_t)memory % LSNN_TILE) % LSNN_TILE;
    }
    engine->current = layout;
    make_masks(engine, layout);
    return LSNN_OK;
}

int lsnn_run(lsnn_engine *engine, const void *inputs, size_t count, float *logits, uint8_t *const *spikes)
{
    const lsnn_model *model = &engine->model;
    const size_t input = (size_t)model->channels * (size_t)model->height * (size_t)model->width;
    size_t done = 0;
    int which = LAYOUTS - 1;
    while (done < count) {
        const lsnn_layout *layout;
        const size_t size = model->kind == 0 ? 1 : sizeof(float);
        int32_t p;
        int status;
        while (count - done < (size_t)1 << which)
            which--;
        status = use_layout(engine, which, &layout);
        if (status == LSNN_OK)
            status = lsnn_quantize(model, engine->quantize_table, (const uint8_t *)inputs + done * input * size,
                                   (size_t)layout->batch, (int8_t *)(engine->block + layout->input));
        if (status != LSNN_OK)
            return status;
        for (p = 0; p < model->population_count; p++) {
            run_population(engine, layout, p);
            if (spikes && spikes[p])
                record(engine, layout, p, done, count, spikes[p]);
        }
        read_out(engine, layout, done, count, logits);
        done += (size_t)layout->batch;
    }
    return LSNN_OK;
}

/* --- Making an engine. --- */

int32_t lsnn_abi(void) { return LSNN_ABI; }

const char *lsnn_kernel_name(int32_t n)
{
    const lsnn_kernel_ops *ops = n < 0 ? NULL : lsnn_kernel_at(n);
    return ops ? ops->name : NULL;
}

static const lsnn_kernel_ops *find_kernel(const char *name)
{
    const lsnn_kernel_ops *ops;
    int32_t n;
    for (n = 0; (ops = lsnn_kernel_at(n)); n++)
        if (!name || !strcmp(name, ops->name))
            return ops;
    return NULL;
}

static int make_workers(lsnn_engine *engine, int32_t count)
{
    const lsnn_plan *plan = &engine->plan;
    size_t most_rows = 0, most_events = 0;
    int32_t g, i;
    for (i = 0; i < plan->bundle_count; i++)
        if (most_rows < plan->bundles[i].row_stride)
            most_rows = plan->bundles[i].row_stride;
    for (g = 0; g < plan->group_count; g++) {
        const size_t inputs = (size_t)plan->groups[g].inputs * (size_t)plan->groups[g].taps;
        if (plan->groups[g].method == LSNN_GATHER && most_events < inputs)
            most_events = inputs;
    }
    engine->worker_bytes = LSNN_TILE + plan->tile_bytes + lsnn_round_up(most_events * sizeof(uint32_t)) +
                           most_rows * sizeof(int32_t);
    engine->workers = calloc((size_t)count, sizeof *engine->workers);
    for (i = 0; engine->workers && i < count; i++) {
        worker *made = &engine->workers[i];
        uint8_t *at = made->memory = malloc(engine->worker_bytes);
        if (!at)
            return 0;
        at += (LSNN_TILE - (uintptr_t)at % LSNN_TILE) % LSNN_TILE;
        made->tile = (uint64_t *)(void *)at;
        at += plan->tile_bytes;
        made->events = (uint32_t *)(void *)at;
        at += lsnn_round_up(most_events * sizeof(uint32_t));
        made->sums = (int32_t *)(void *)at;
    }
    return engine->workers != NULL;
}

static int make_lists(lsnn_engine *engine)
{
    const lsnn_model *model = &engine->model;
    size_t currents = 0, planes = 0, channels = 0, taps = 0;
    int32_t p, g;
    for (p = 0; p < model->population_count; p++) {
        const size_t bundles = (size_t)model->populations[p].bundle_count;
        const size_t mine = (size_t)model->populations[p].channels;
        if (currents < bundles)
            currents = bundles;
        if (planes < bundles * mine)
            planes = bundles * mine;
        if (channels < mine)
            channels = mine;
    }
    for (g = 0; g < engine->plan.group_count; g++)
        if (taps < (size_t)engine->plan.groups[g].taps)
            taps = (size_t)engine->plan.groups[g].taps;
    engine->channels = malloc(((size_t)engine->plan.most_inputs + 1) * sizeof *engine->channels);
    engine->tap_bits = malloc((taps + 1) * sizeof *engine->tap_bits);
    engine->planes = malloc(planes * sizeof *engine->planes);
    engine->currents = malloc(currents * sizeof *engine->currents);
    engine->totals = malloc(LSNN_MAX_BATCH * (size_t)model->classes * sizeof *engine->totals);
    engine->ones = malloc(channels);
    engine->zeros = calloc(channels, sizeof *engine->zeros);
    if (engine->ones)
        memset(engine->ones, 1, channels);
    if (model->kind == 0)
        engine->quantize_table = malloc(256 * (size_t)model->channels);
    if (engine->quantize_table)
        lsnn_quantize_table(model, engine->quantize_table);
    return engine->channels && engine->tap_bits && engine->planes && engine->currents && engine->totals &&
           engine->ones && engine->zeros && (model->kind != 0 || engine->quantize_table);
}

int lsnn_load(lsnn_engine **engine, const void *image, size_t size, const char *kernel, int32_t method,
              int32_t threads, char *message, size_t message_size)
{
    lsnn_engine *made;
    const lsnn_layout *layout;
    int status;
    *engine = NULL;
    if (message_size)
        message[0] = '\0';
    if (!find_kernel(kernel)) {
        snprintf(message, message_size, "this CPU has no kernel %.32s", kernel ? kernel : "at all");
        return LSNN_NO_KERNEL;
    }
    made = calloc(1, sizeof *made);
    if (!made)
        return LSNN_NO_MEMORY;
    made->ops = find_kernel(kernel);
    status = lsnn_model_load(&made->model, image, size, message, message_size);
    if (status == LSNN_OK)
        status = lsnn_plan_make(&made->plan, &made->model, made->ops, method);
    if (status == LSNN_OK) {
        threads = threads < 1 ? 1 : threads > MAX_THREADS ? MAX_THREADS : threads;
        made->pool = lsnn_pool_start(threads);
        if (!made->pool || !make_workers(made, lsnn_pool_workers(made->pool)) || !make_lists(made))
            status = LSNN_NO_MEMORY;
    }
    if (status == LSNN_OK)
        status = use_layout(made, 0, &layout);
    if (status == LSNN_OK)
        *engine = made;
    else
        lsnn_free(made);
    if (status == LSNN_NO_MEMORY)
        snprintf(message, message_size, "the network needs more memory than there is, or more than 4 GiB");
    return status;
}

void lsnn_free(lsnn_engine *engine)
{
    int32_t i;
    if (!engine)
        return;
    for (i = 0; engine->workers && i < lsnn_pool_workers(engine->pool); i++)
        free(engine->workers[i].memory);
    lsnn_pool_stop(engine->pool);
    for (i = 0; i < LAYOUTS; i++)
        lsnn_layout_free(&engine->layouts[i]);
    lsnn_plan_free(&engine->plan);
    lsnn_model_free(&engine->model);
    free(engine->workers);
    free(engine->block_memory);
    free(engine->quantize_table);
    free((void *)engine->channels);
    free(engine->tap_bits);
    free((void *)engine->planes);
    free(engine->currents);
    free(engine->totals);
    free(engine->ones);
    free(engine->zeros);
    free(engine);
}

const char *lsnn_kernel(const lsnn_engine *engine) { return engine->ops->name; }

int lsnn_bundle(const lsnn_engine *engine, int32_t n, lsnn_bundle_info *info)
{
    const lsnn_bundle_plan *bundle;
    if (n < 0 || n >= engine->plan.bundle_count)
        return -1;
    bundle = &engine->plan.bundles[n];
    info->population = bundle->population;
    info->method = bundle->method;
    info->weight_bytes = bundle->weight_bytes;
    info->additions = bundle->additions;
    info->words = bundle->words;
    return 0;
}

void lsnn_reset_counts(lsnn_engine *engine)
{
    int32_t b;
    for (b = 0; b < engine->plan.bundle_count; b++)
        engine->plan.bundles[b].additions = engine->plan.bundles[b].words = 0;
}

uint64_t lsnn_weight_bytes(const lsnn_engine *engine) { return engine->plan.weight_bytes; }

uint64_t lsnn_work_bytes(const lsnn_engine *engine)
{
    return engine->block_bytes + engine->worker_bytes * (uint64_t)lsnn_pool_workers(engine->pool);
}

double lsnn_full_adder_limit(const char *kernel)
{
    const lsnn_kernel_ops *ops = find_kernel(kernel);
    const uint64_t rounds = 1 << 16;
    double best = 0;
    int repeat;
    if (!ops)
        return 0;
    for (repeat = 0; repeat < 5; repeat++) {
        const clock_t start = clock();
        uint64_t done = 0;
        double seconds;
        volatile uint64_t kept;
        do {
            kept = ops->full_adders(rounds);
            (void)kept;
            done += rounds;
            seconds = (double)(clock() - start) / CLOCKS_PER_SEC;
        } while (seconds < 0.02);
        if ((double)done / seconds > best)
            best = (double)done / seconds;
    }
    return best * 8 * 8 * ops->vector_bytes;
}
