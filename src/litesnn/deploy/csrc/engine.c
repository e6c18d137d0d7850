/* Makes engines and says what there is to say of them. See litesnn.h. */
#include "engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "maps.h"

#define MAX_THREADS 256

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
        lsnn_worker *made = &engine->workers[i];
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
    if (model->kind != LSNN_NUMBERS)
        engine->quantize_table = malloc(256 * (size_t)model->channels);
    if (engine->quantize_table)
        lsnn_quantize_table(model, engine->quantize_table);
    return engine->channels && engine->tap_bits && engine->planes && engine->currents && engine->totals &&
           engine->ones && engine->zeros && (model->kind == LSNN_NUMBERS || engine->quantize_table);
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
        status = lsnn_use_layout(made, 0, &layout);
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
    for (i = 0; i < LSNN_LAYOUTS; i++)
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
