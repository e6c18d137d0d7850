#include "plan.h"

#include <stdlib.h>
#include <string.h>

#include "litesnn.h"
#include "tables.h"

#define UNKNOWN_RATE 0.15f /* of a population whose rate was not measured */

/* --- Methods and groups. --- */

/* Height and width of the maps that a bundle reads. */
static void input_size(const lsnn_model *model, const lsnn_synapses *synapses, int32_t *height, int32_t *width)
{
    const int32_t source = synapses->sources[0];
    *height = source == LSNN_IMAGE ? model->height : model->populations[source].height;
    *width = source == LSNN_IMAGE ? model->width : model->populations[source].width;
}

/* Spikes per input and timestep. */
static float input_rate(const lsnn_model *model, const lsnn_synapses *synapses)
{
    float spikes = 0;
    int32_t i;
    for (i = 0; i < synapses->source_count; i++) {
        const lsnn_population *source = &model->populations[synapses->sources[i]];
        spikes += (source->rate < 0 ? UNKNOWN_RATE : source->rate) * (float)source->channels;
    }
    return spikes / (float)synapses->inputs;
}

/* The cheaper method for one input at a time, by the cycles that each step was measured to take. */
static int32_t choose(const lsnn_model *model, const lsnn_bundle_plan *bundle, const lsnn_kernel_ops *ops,
                      int32_t method)
{
    const float copy_cycles = 6, mark_cycles = 5, store_cycles = 5;
    const lsnn_population *population = &model->populations[bundle->population];
    const lsnn_synapses *synapses = bundle->synapses;
    const float neurons = (float)model->timesteps * (float)population->height * (float)population->width;
    const float sums = (float)lsnn_spike_bits(model) * neurons;
    const float tiles = (float)(lsnn_plane_bytes(model, 1, population->height, population->width) / LSNN_TILE);
    const float inputs = (float)synapses->inputs * (float)lsnn_taps(synapses);
    const float set_bits = 0.5f * (float)(1 + lsnn_spike_bits(model)); /* of a spike, about */
    const float events = input_rate(model, synapses) * inputs * neurons * set_bits;
    const float strips = (float)((population->channels + 63) / 64);
    int32_t planes;
    uint64_t blocks;
    float sliced, gathered;
    lsnn_bit_cost(synapses, population->channels, &planes, &blocks);
    if (planes > LSNN_MAX_PLANES || method == LSNN_GATHER)
        return LSNN_GATHER;
    if (method == LSNN_BITSLICED)
        return LSNN_BITSLICED;
    sliced = tiles * ((float)blocks * ops->block_cycles + inputs * copy_cycles);
    gathered = events * (mark_cycles + strips * ops->row_cycles) + sums * (float)population->channels * store_cycles;
    return gathered < sliced ? LSNN_GATHER : LSNN_BITSLICED;
}

static int same_inputs(const lsnn_group_plan *group, const lsnn_bundle_plan *bundle)
{
    const lsnn_synapses *synapses = bundle->synapses;
    return group->method == bundle->method && group->kernel == synapses->kernel && group->stride == synapses->stride &&
           group->source_count == synapses->source_count &&
           !memcmp(group->sources, synapses->sources, (size_t)synapses->source_count * sizeof *synapses->sources);
}

/* The group that a bundle belongs to; a new one if there is none. */
static int32_t group_of(lsnn_plan *plan, const lsnn_bundle_plan *bundle)
{
    const lsnn_synapses *synapses = bundle->synapses;
    lsnn_group_plan *group;
    int64_t inputs;
    int32_t i;
    for (i = 0; i < plan->group_count; i++)
        if (same_inputs(&plan->groups[i], bundle))
            return i;
    group = &plan->groups[plan->group_count++];
    group->method = bundle->method;
    group->kernel = synapses->kernel;
    group->stride = synapses->stride;
    group->taps = lsnn_taps(synapses);
    group->inputs = synapses->inputs;
    group->source_count = synapses->source_count;
    group->sources = synapses->sources;
    group->step = bundle->population;
    input_size(plan->model, synapses, &group->height, &group->width);
    group->out_height = lsnn_strided(group->height, group->stride);
    group->out_width = lsnn_strided(group->width, group->stride);
    inputs = (int64_t)group->inputs * group->taps;
    group->segment_inputs = (int32_t)(inputs < LSNN_SEGMENT_INPUTS ? inputs : LSNN_SEGMENT_INPUTS);
    group->segments = (int32_t)((inputs + LSNN_SEGMENT_INPUTS - 1) / LSNN_SEGMENT_INPUTS);
    if (group->inputs > plan->most_inputs)
        plan->most_inputs = group->inputs;
    if (group->method == LSNN_BITSLICED) {
        const size_t bytes = (size_t)group->segments * lsnn_segment_words(group->segment_inputs) * 8;
        if (bytes > plan->tile_bytes)
            plan->tile_bytes = bytes;
    }
    return plan->group_count - 1;
}

/* The bundles of every group, in their order. */
static void list_members(lsnn_plan *plan)
{
    int32_t g, b, *next = plan->members;
    for (b = 0; b < plan->bundle_count; b++)
        if (plan->bundles[b].group >= 0)
            plan->groups[plan->bundles[b].group].member_count++;
    for (g = 0; g < plan->group_count; g++) {
        plan->groups[g].members = next;
        next += plan->groups[g].member_count;
        plan->groups[g].member_count = 0;
    }
    for (b = 0; b < plan->bundle_count; b++)
        if (plan->bundles[b].group >= 0) {
            lsnn_group_plan *group = &plan->groups[plan->bundles[b].group];
            group->members[group->member_count++] = b;
        }
}

static void use(lsnn_plan *plan, const lsnn_synapses *synapses, int32_t when)
{
    int32_t i;
    for (i = 0; i < synapses->source_count; i++)
        if (synapses->sources[i] != LSNN_IMAGE && plan->last_use[synapses->sources[i]] < when)
            plan->last_use[synapses->sources[i]] = when;
}

/* --- Tables. --- */

/* Makes the table of a bundle and gives its codes back if they are not needed any more. */
static int make_table(lsnn_bundle_plan *bundle, lsnn_synapses *synapses, int32_t channels)
{
    const uint64_t weights = (uint64_t)synapses->inputs * (uint64_t)lsnn_taps(synapses);
    bundle->weight_bytes = (uint64_t)channels * sizeof *synapses->scale;
    if (bundle->method == LSNN_IDENTITY)
        return LSNN_OK;
    if (bundle->method == LSNN_ANALOG) {
        bundle->weight_bytes += weights * (uint64_t)channels;
        return LSNN_OK;
    }
    if (bundle->method == LSNN_GATHER) {
        if (weights * (((uint64_t)channels + 63) / 64 * 64) > LSNN_MAX_WORK)
            return LSNN_NO_MEMORY;
        bundle->rows = lsnn_rows_make(synapses, channels, &bundle->row_stride);
        if (!bundle->rows)
            return LSNN_NO_MEMORY;
        bundle->weight_bytes += weights * bundle->row_stride;
    } else {
        const uint64_t bytes = lsnn_bit_table_make(&bundle->table, synapses, channels);
        if (!bytes)
            return LSNN_NO_MEMORY;
        bundle->weight_bytes += bytes;
    }
    free(synapses->codes);
    synapses->codes = NULL;
    return LSNN_OK;
}

static int reserve(lsnn_plan *plan, const lsnn_model *model)
{
    const size_t populations = (size_t)model->population_count;
    int32_t p;
    for (p = 0; p < model->population_count; p++)
        plan->bundle_count += model->populations[p].bundle_count;
    plan->bundles = calloc((size_t)plan->bundle_count, sizeof *plan->bundles);
    plan->groups = calloc((size_t)plan->bundle_count, sizeof *plan->groups);
    plan->members = calloc((size_t)plan->bundle_count, sizeof *plan->members);
    plan->first_bundle = calloc(populations + 1, sizeof *plan->first_bundle);
    plan->last_use = calloc(populations, sizeof *plan->last_use);
    return plan->bundles && plan->groups && plan->members && plan->first_bundle && plan->last_use;
}

int lsnn_plan_make(lsnn_plan *plan, lsnn_model *model, const lsnn_kernel_ops *ops, int32_t method)
{
    int32_t p, e, b = 0;
    int status = LSNN_OK;
    memset(plan, 0, sizeof *plan);
    plan->model = model;
    if (!reserve(plan, model)) {
        plan->bundle_count = 0;
        lsnn_plan_free(plan);
        return LSNN_NO_MEMORY;
    }
    for (p = 0; p < model->population_count && status == LSNN_OK; p++) {
        const lsnn_population *population = &model->populations[p];
        plan->first_bundle[p] = b;
        plan->last_use[p] = p;
        plan->weight_bytes += (uint64_t)population->channels * sizeof *population->bias;
        for (e = 0; e < population->bundle_count && status == LSNN_OK; e++, b++) {
            lsnn_bundle_plan *bundle = &plan->bundles[b];
            lsnn_synapses *synapses = &population->bundles[e];
            bundle->population = p;
            bundle->synapses = synapses;
            if (!synapses->kernel)
                bundle->method = LSNN_IDENTITY;
            else if (synapses->sources[0] == LSNN_IMAGE)
                bundle->method = LSNN_ANALOG;
            else
                bundle->method = choose(model, bundle, ops, method);
            bundle->group = bundle->method == LSNN_IDENTITY ? -1 : group_of(plan, bundle);
            use(plan, synapses, bundle->group < 0 ? p : plan->groups[bundle->group].step);
            status = make_table(bundle, synapses, population->channels);
            plan->weight_bytes += bundle->weight_bytes;
        }
    }
    plan->first_bundle[model->population_count] = b;
    use(plan, &model->readout, model->population_count);
    plan->weight_bytes += (uint64_t)model->classes * ((uint64_t)model->readout.inputs + 2 * sizeof(lsnn_number));
    list_members(plan);
    if (plan->tile_bytes > LSNN_MAX_WORK)
        status = LSNN_NO_MEMORY;
    if (status != LSNN_OK)
        lsnn_plan_free(plan);
    return status;
}

void lsnn_plan_free(lsnn_plan *plan)
{
    int32_t b;
    for (b = 0; b < plan->bundle_count; b++) {
        lsnn_bit_table_free(&plan->bundles[b].table);
        free(plan->bundles[b].rows);
    }
    free(plan->bundles);
    free(plan->groups);
    free(plan->members);
    free(plan->first_bundle);
    free(plan->last_use);
    memset(plan, 0, sizeof *plan);
}
