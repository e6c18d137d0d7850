/* Runs batches: populations one after another, then the readout. */
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "maps.h"

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
    current.bits = bundle->method == LSNN_ANALOG ? 1 : lsnn_spike_bits(&engine->model);
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
        current.sums_constant = bundle->method == LSNN_ANALOG && lsnn_frames(&engine->model) == 1;
    }
    return current;
}

/* A membrane above it has a spike of more than `level`. */
static lsnn_number threshold(const lsnn_model *model, int32_t level)
{
    lsnn_number made = model->threshold;
    if (model->fraction)
        made.fixed += level * ((int32_t)1 << model->fraction);
    else
        made.real = made.real + (float)level;
    return made;
}

static void run_population(lsnn_engine *engine, const lsnn_layout *layout, int32_t p)
{
    const lsnn_population *population = &engine->model.populations[p];
    const int32_t first = engine->plan.first_bundle[p], last = engine->plan.first_bundle[p + 1];
    const size_t images = (size_t)lsnn_binary_steps(&engine->model) * (size_t)layout->batch;
    const size_t pixels = (size_t)population->height * (size_t)population->width;
    population_job job;
    int32_t b, c, k;
    for (b = first; b < last; b++) {
        lsnn_bundle_plan *bundle = &engine->plan.bundles[b];
        if (bundle->group >= 0 && engine->plan.groups[bundle->group].members[0] == b)
            lsnn_run_group(engine, layout, &engine->plan.groups[bundle->group]);
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
    job.fire.leak = population->leak;
    job.fire.soft = population->soft;
    job.fire.reset = population->reset;
    job.fire.levels = engine->model.levels;
    job.fire.bits = lsnn_spike_bits(&engine->model);
    for (k = 0; k < engine->model.levels; k++)
        job.fire.thresholds[k] = threshold(&engine->model, k);
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
    const size_t bits = (size_t)lsnn_spike_bits(&engine->model);
    size_t t, b, n, c;
    for (t = 0; t < (size_t)engine->model.timesteps; t++)
        for (n = 0; n < batch; n++)
            for (c = 0; c < channels; c++)
                for (b = 0; b < bits; b++)
                    lsnn_expand(engine->block + layout->spikes[p] + c * plane + ((t * bits + b) * batch + n) * image,
                                pixels, (int)b, out + (((t * count + first + n) * channels) + c) * pixels);
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
    const int32_t inputs = model->readout.inputs, bits = lsnn_spike_bits(model);
    int32_t t, s, c, k, b;
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
                const uint8_t *from = engine->block + layout->spikes[source] + ((size_t)(t * bits) * batch + n) * image;
                for (c = 0; c < population->channels; c++, input++, from += plane) {
                    int32_t spikes = 0;
                    for (b = 0; b < bits; b++)
                        spikes += lsnn_count(from + (size_t)b * batch * image, image) << b;
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
            lsnn_make_masks(group, (size_t)lsnn_binary_steps(&engine->model) * (size_t)layout->batch,
                            lsnn_plane_bytes(&engine->model, layout->batch, group->out_height, group->out_width),
                            engine->block + layout->masks[g]);
    }
}

int lsnn_use_layout(lsnn_engine *engine, int which, const lsnn_layout **found)
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
    const size_t area = (size_t)model->height * (size_t)model->width;
    const size_t input = (size_t)lsnn_frames(model) * (size_t)model->channels * area;
    size_t done = 0;
    int which = LSNN_LAYOUTS - 1;
    while (done < count) {
        const lsnn_layout *layout;
        const size_t size = model->kind == LSNN_NUMBERS ? sizeof(float) : 1;
        int32_t p;
        int status;
        while (count - done < (size_t)1 << which)
            which--;
        status = lsnn_use_layout(engine, which, &layout);
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
