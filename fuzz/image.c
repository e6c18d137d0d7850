/* libFuzzer target: an engine image, loaded, planned and run. Whatever the bytes are, nothing is read or written out of
 * bounds (the sanitizers see that), a refusal says why in one line, and a model that loads gives the spikes and logits
 * of meaning.c with every kernel, method and number of threads.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "layout.h"
#include "litesnn.h"
#include "loader.h"
#include "meaning.h"
#include "mutate.h"
#include "plan.h"

/* Models beyond these are loaded, and planned if they have few weights, but not run: a run stays within milliseconds. */
#define MAX_COST (1 << 17)      /* multiplications for all inputs */
#define MAX_WORK_BYTES (1 << 20)
#define MAX_PLANNED_WEIGHTS (1 << 16)
#define MESSAGE 160
#define BATCHES 4

#define DEMAND(condition, ...)                                                                   \
    do {                                                                                         \
        if (!(condition)) {                                                                      \
            fprintf(stderr, "%s:%d: expected %s\n", __FILE__, __LINE__, #condition);             \
            fprintf(stderr, __VA_ARGS__);                                                        \
            fputc('\n', stderr);                                                                 \
            abort();                                                                             \
        }                                                                                        \
    } while (0)

static void *reserve(size_t size)
{
    void *memory = malloc(size); /* exactly so many bytes: the address sanitizer guards both ends */
    if (!memory)
        abort();
    return memory;
}

static uint32_t hash_of(const uint8_t *data, size_t size)
{
    uint32_t hash = 2166136261u;
    for (; size; size--)
        hash = (hash ^ *data++) * 16777619u;
    return hash;
}

/* --- Refusals. --- */

static void check_refusal(int status, const char *message, size_t message_size)
{
    DEMAND(status == LSNN_BAD_IMAGE || status == LSNN_NO_MEMORY, "status %d", status);
    if (message_size > 1) {
        DEMAND(memchr(message, '\0', message_size), "the message does not end");
        DEMAND(message[0] && !strchr(message, '\n'), "message '%s'", message);
    }
}

static int load_model(lsnn_model *model, const uint8_t *data, size_t size, size_t message_size)
{
    char *message = reserve(message_size);
    const int status = lsnn_model_load(model, data, size, message, message_size);
    if (status != LSNN_OK) {
        const lsnn_model empty = {0};
        check_refusal(status, message, message_size);
        DEMAND(!memcmp(model, &empty, sizeof empty), "a model that was refused is not empty");
    }
    free(message);
    return status == LSNN_OK;
}

/* --- Plans, of models that may be too large to run. --- */

static int64_t weights_of(const lsnn_model *model)
{
    int64_t weights = 0;
    int32_t p, b;
    for (p = 0; p < model->population_count; p++)
        for (b = 0; b < model->populations[p].bundle_count; b++) {
            const lsnn_synapses *synapses = &model->populations[p].bundles[b];
            weights += (int64_t)model->populations[p].channels * synapses->inputs * synapses->kernel * synapses->kernel;
        }
    return weights;
}

/* The most working memory that a run takes with this method; UINT64_MAX if the engine refuses it. */
static uint64_t work_bytes(const uint8_t *data, size_t size, int32_t method)
{
    const lsnn_kernel_ops *ops = lsnn_kernel_at(0);
    uint64_t most = 0;
    lsnn_model model;
    lsnn_plan plan;
    char message[MESSAGE];
    int32_t i, p;
    DEMAND(lsnn_model_load(&model, data, size, message, sizeof message) == LSNN_OK, "%s", message);
    if (lsnn_plan_make(&plan, &model, ops, method) == LSNN_OK) {
        for (i = 0; i < BATCHES; i++) {
            lsnn_layout layout;
            if (lsnn_layout_make(&layout, &plan, 1 << i) != LSNN_OK) {
                most = UINT64_MAX;
                break;
            }
            for (p = 0; p < model.population_count; p++) {
                const lsnn_population *made = &model.populations[p];
                const size_t plane = lsnn_plane_bytes(&model, layout.batch, made->height, made->width);
                const size_t bytes = (size_t)made->channels * plane;
                DEMAND(layout.spikes[p] <= layout.bytes && bytes <= layout.bytes - layout.spikes[p],
                       "population %d at %zu of %zu bytes", (int)p, layout.spikes[p], layout.bytes);
            }
            if (most < layout.bytes + plan.tile_bytes)
                most = layout.bytes + plan.tile_bytes;
            lsnn_layout_free(&layout);
        }
        lsnn_plan_free(&plan);
    } else
        most = UINT64_MAX;
    lsnn_model_free(&model);
    return most;
}

/* --- Runs. --- */

typedef struct {
    const lsnn_model *model;
    const char *kernel;
    int32_t method, threads;
    const void *inputs;
    const meaning *expected;
    int32_t count; /* inputs, and those that `expected` has */
} trial;

static size_t input_size(const lsnn_model *model)
{
    return (size_t)lsnn_frames(model) * (size_t)model->channels * (size_t)model->height * (size_t)model->width;
}

static float number(const lsnn_model *model, int32_t channel, uint32_t *state)
{
    static const float extremes[] = {0.0f, -0.0f, 1e-45f, -3.4e38f, 3.4e38f, 65504.0f};
    const uint32_t choice = next_random(state) % 64;
    const float spread = (float)(next_random(state) % 2001) / 250.0f - 4.0f;
    const float made = model->mean[channel] + model->std[channel] * spread;
    return choice < sizeof extremes / sizeof *extremes ? extremes[choice] : isfinite(made) ? made : 0.0f;
}

/* Finite inputs, all over the quantizer's range and beyond. */
static void *make_inputs(const lsnn_model *model, int32_t count, uint32_t state)
{
    const size_t area = (size_t)model->height * (size_t)model->width, size = (size_t)count * input_size(model);
    uint8_t *pixels = reserve(size * (model->kind == LSNN_NUMBERS ? sizeof(float) : 1));
    float *numbers = (float *)(void *)pixels;
    size_t i;
    for (i = 0; i < size; i++)
        if (model->kind == LSNN_NUMBERS)
            numbers[i] = number(model, (int32_t)(i / area % (size_t)model->channels), &state);
        else
            pixels[i] = (uint8_t)(next_random(&state) >> 8);
    return pixels;
}

/* Runs the first `count` inputs, and compares. */
static void run(lsnn_engine *engine, const trial *job, int32_t count)
{
    const lsnn_model *model = job->model;
    const size_t steps = (size_t)model->timesteps, classes = (size_t)model->classes, n = (size_t)count;
    float *logits = reserve(steps * n * classes * sizeof *logits);
    uint8_t **spikes = reserve((size_t)model->population_count * sizeof *spikes);
    size_t t, bytes;
    int32_t p;
    for (p = 0; p < model->population_count; p++) {
        const lsnn_population *made = &model->populations[p];
        spikes[p] = reserve(steps * n * (size_t)made->channels * (size_t)made->height * (size_t)made->width);
    }
    DEMAND(lsnn_run(engine, job->inputs, n, logits, spikes) == LSNN_OK, "kernel %s", job->kernel);
    for (p = 0; p < model->population_count; p++) {
        const lsnn_population *made = &model->populations[p];
        bytes = n * (size_t)made->channels * (size_t)made->height * (size_t)made->width;
        for (t = 0; t < steps; t++)
            DEMAND(!memcmp(spikes[p] + t * bytes,
                           job->expected->spikes[p] + t * (bytes / n) * (size_t)job->count, bytes),
                   "the spikes of population %d, step %zu: kernel %s, method %d, %d threads, %d inputs", (int)p, t,
                   job->kernel, (int)job->method, (int)job->threads, (int)count);
        free(spikes[p]);
    }
    bytes = n * classes * sizeof *logits;
    for (t = 0; t < steps; t++)
        DEMAND(!memcmp(logits + t * n * classes, job->expected->logits + t * (size_t)job->count * classes, bytes),
               "the logits of step %zu: kernel %s, method %d, %d threads, %d inputs", t, job->kernel, (int)job->method,
               (int)job->threads, (int)count);
    free(spikes);
    free(logits);
}

/* A number that is not finite is refused, and leaves no trace. */
static void run_bad_input(lsnn_engine *engine, const lsnn_model *model, uint32_t state)
{
    const size_t size = input_size(model);
    float *inputs = make_inputs(model, 1, state);
    float *logits = reserve((size_t)model->timesteps * (size_t)model->classes * sizeof *logits);
    inputs[state % size] = state & 1 ? NAN : -INFINITY;
    DEMAND(lsnn_run(engine, inputs, 1, logits, NULL) == LSNN_BAD_INPUT, "an input that is not finite was run");
    free(logits);
    free(inputs);
}

static void try_one(const uint8_t *data, size_t size, const trial *job, uint32_t state)
{
    char message[MESSAGE];
    lsnn_engine *engine;
    const int status =
        lsnn_load(&engine, data, size, job->kernel, job->method, job->threads, message, sizeof message);
    DEMAND(status == LSNN_OK && engine, "kernel %s, method %d: status %d, %s", job->kernel, (int)job->method, status,
           message);
    run(engine, job, job->count);
    if (job->model->kind == LSNN_NUMBERS)
        run_bad_input(engine, job->model, state);
    run(engine, job, 1); /* in memory that holds the run before */
    lsnn_free(engine);
}

static void try_all(const uint8_t *data, size_t size, const lsnn_model *model)
{
    const uint32_t state = hash_of(data, size);
    const int64_t numbers = meaning_cost(model) + (int64_t)input_size(model) + (int64_t)model->timesteps * model->classes;
    uint64_t bytes = 0, n;
    trial job;
    meaning expected;
    void *inputs;
    int32_t k;
    job.count = state % 8 == 0 ? 11 : 3; /* batches of 8, 2 and 1; or of 2 and 1 */
    for (job.method = -1; job.method <= LSNN_GATHER; job.method++)
        if (bytes < (n = work_bytes(data, size, job.method)))
            bytes = n;
    if (bytes > MAX_WORK_BYTES || numbers > MAX_COST / job.count)
        return;
    inputs = make_inputs(model, job.count, state);
    expected = meaning_of(model, inputs, job.count);
    job.model = model;
    job.inputs = inputs;
    job.expected = &expected;
    job.threads = state / 8 % 16 == 0 ? 3 : state / 8 % 16 == 1 ? 2 : 1;
    for (k = 0; (job.kernel = lsnn_kernel_name(k)); k++)
        for (job.method = -1; job.method <= LSNN_GATHER; job.method++)
            try_one(data, size, &job, state);
    meaning_free(model, &expected);
    free(inputs);
}

/* --- What libFuzzer calls. --- */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed);
size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most); /* libFuzzer's own mutations */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    lsnn_model model;
    if (load_model(&model, data, size, hash_of(data, size) % MESSAGE)) {
        if (weights_of(&model) <= MAX_PLANNED_WEIGHTS)
            try_all(data, size, &model);
        lsnn_model_free(&model);
    }
    return 0;
}

/* A change anywhere makes the bytes that follow mean something else, and nearly every image would be refused by its
 * first words. So most changes are followed by repairs, of the size only or of everything. */
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned int seed)
{
    uint32_t state = seed;
    const uint32_t choice = next_random(&state) % 8;
    size = LLVMFuzzerMutate(data, size, most);
    if (choice >= 1)
        seal(data, size);
    if (choice >= 4) {
        uint8_t *mended = reserve(most);
        const size_t bytes = mend(data, size, mended, most, next_random(&state));
        if (bytes) {
            memcpy(data, mended, bytes);
            size = bytes;
        }
        free(mended);
    }
    return size;
}
