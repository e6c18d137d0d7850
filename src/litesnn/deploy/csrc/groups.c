/* Sums of a group of bundles by each method. Tasks are what a worker does; the others set them up and count. */
#include <string.h>

#include "engine.h"
#include "maps.h"

typedef struct {
    lsnn_engine *engine;
    const lsnn_layout *layout;
    const lsnn_group_plan *group;
    lsnn_shift_job shift;
    size_t plane_bytes; /* of the group's output */
    int64_t tile, tiles;
    size_t frame; /* of the input, that is computed */
} group_job;

static size_t images_of(const group_job *job)
{
    return (size_t)lsnn_binary_steps(&job->engine->model) * (size_t)job->layout->batch;
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
static void gather_at(const group_job *job, lsnn_worker *mine, const uint64_t *marks, size_t words, size_t n, int32_t y,
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
    const size_t frames = (size_t)lsnn_frames(&engine->model);
    int32_t m;
    for (m = 0; m < group->member_count; m++) {
        const lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        int32_t *sums = (int32_t *)(void *)(engine->block + job->layout->results[group->members[m]]);
        int64_t c, last;
        for (lsnn_share(engine->model.populations[bundle->population].channels, me, workers, &c, &last); c < last; c++)
            engine->ops->weigh(bundle->synapses->codes + c * inputs, inputs, copies, pixels, pixels,
                               sums + ((size_t)c * frames + job->frame) * pixels);
    }
}

static void pixels_task(void *context, int32_t me, int32_t workers)
{
    const group_job *job = context;
    const lsnn_group_plan *group = job->group;
    const size_t image = (size_t)group->inputs * (size_t)group->height * (size_t)group->width;
    const size_t frame = job->layout->input + job->frame * (size_t)job->layout->batch * image;
    int64_t first, last;
    lsnn_share(group->inputs, me, workers, &first, &last);
    lsnn_shift_pixels(group, (const int8_t *)(job->engine->block + frame), job->layout->batch,
                      (int32_t)first, (int32_t)last,
                      (int8_t *)(job->engine->block + job->layout->copies[group - job->engine->plan.groups]));
}

static void run_analog(group_job *job)
{
    lsnn_engine *engine = job->engine;
    const lsnn_group_plan *group = job->group;
    const uint64_t pixels = (uint64_t)job->layout->batch * lsnn_image_bytes(group->out_height, group->out_width) * 8;
    const size_t frames = (size_t)lsnn_frames(&engine->model);
    int32_t m;
    for (job->frame = 0; job->frame < frames; job->frame++) {
        lsnn_pool_run(engine->pool, pixels_task, job);
        lsnn_pool_run(engine->pool, analog_task, job);
    }
    for (m = 0; m < group->member_count; m++) {
        lsnn_bundle_plan *bundle = &engine->plan.bundles[group->members[m]];
        const uint64_t sums = frames * pixels * (uint64_t)engine->model.populations[bundle->population].channels *
                              (uint64_t)group->inputs * (uint64_t)group->taps;
        bundle->additions += sums;
        bundle->words += sums * sizeof(int32_t) / (uint64_t)engine->ops->vector_bytes;
    }
}

void lsnn_run_group(lsnn_engine *engine, const lsnn_layout *layout, const lsnn_group_plan *group)
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
