/* Shares the tiles of winograd_loops.h out over a team. */
#include "winograd.h"

#include <stdlib.h>
#include <string.h>

#include "rows.h"
#include "team.h"
#include "winograd_loops.h"

enum {
    MANY_SUMS = 1 << 20,  /* with which those of a weight gradient outgrow a cache that cores share */
    MANY_FLOATS = 1 << 23 /* of a map that is faster written past the cache, where the shared one has 32 MB */
};

lsnn_scheme lsnn_winograd_scheme(int32_t n)
{
    const lsnn_winograd_loops *loops = lsnn_rows_in_use()->winograd;
    lsnn_scheme found = {0, 0};
    if (loops && n >= 0 && n < LSNN_SCHEMES) {
        found.side = loops[n].side;
        found.stride = loops[n].stride;
    }
    return found;
}

int64_t lsnn_winograd_vector(void)
{
    const lsnn_winograd_loops *loops = lsnn_rows_in_use()->winograd;
    return loops ? loops->vector : 0;
}

static int64_t tiles_of(const lsnn_winograd_job *job) { return job->images * job->grid.across * job->grid.down; }

static int64_t positions_of(const lsnn_winograd_job *job)
{
    const int64_t around = job->loops->stride * (job->loops->side - 1) + 3;
    return around * around;
}

static int64_t whole_lines(int64_t floats) { return lsnn_up(floats, LSNN_LINE / (int64_t)sizeof(float)); }

static int64_t size_of_sums(const lsnn_winograd_job *job)
{
    const int64_t vector = job->loops->vector;
    return whole_lines(positions_of(job) * lsnn_up(job->x.channels, vector) * lsnn_up(job->other.channels, vector));
}

static int64_t size_of_moments(const lsnn_winograd_job *job)
{
    return lsnn_up(2 * job->other.channels, LSNN_LINE / (int64_t)sizeof *job->moments);
}

static void transform_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    int64_t first, last;
    lsnn_share(job->x.channels, worker, workers, &first, &last);
    job->loops->transform(job, first, last);
}

static void convolve_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    double *moments = job->moments ? job->moments + worker * size_of_moments(job) : NULL;
    int64_t first, last;
    lsnn_share(tiles_of(job), worker, workers, &first, &last);
    if (moments)
        memset(moments, 0, (size_t)size_of_moments(job) * sizeof *moments);
    (job->transposed ? job->loops->convolve_back : job->loops->convolve)(job, first, last,
                                                                         job->scratch + worker * job->room, moments);
}

static void add_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    const int64_t size = size_of_sums(job);
    float *sums = job->sums + worker * size;
    int64_t first, last;
    lsnn_share(tiles_of(job), worker, workers, &first, &last);
    memset(sums, 0, (size_t)size * sizeof *sums);
    job->loops->add(job, first, last, job->scratch + worker * job->room, sums);
}

static void finish_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    int64_t first, last;
    lsnn_share(job->x.channels, worker, workers, &first, &last);
    job->loops->finish(job, first, last);
}

static lsnn_sheet sheet(const lsnn_map *map, int64_t channels, int64_t height, int64_t width)
{
    lsnn_sheet made;
    made.values = map->values;
    made.stride = map->stride;
    made.channels = channels;
    made.height = height;
    made.width = width;
    return made;
}

/* A job that reads or writes these maps of the input and of the output. */
static lsnn_winograd_job job_of(int32_t n, const lsnn_convolution *convolution, const lsnn_map *input,
                                const lsnn_map *output)
{
    lsnn_winograd_job job;
    int64_t stride, side, height, width;
    memset(&job, 0, sizeof job);
    job.loops = &lsnn_rows_in_use()->winograd[n];
    stride = job.loops->stride;
    side = job.loops->side;
    height = (convolution->height + stride - 1) / stride;
    width = (convolution->width + stride - 1) / stride;
    job.x = sheet(input, convolution->inputs, convolution->height, convolution->width);
    job.other = sheet(output, convolution->outputs, height, width);
    job.grid.across = (width + side - 1) / side;
    job.grid.down = (height + side - 1) / side;
    job.images = convolution->images;
    return job;
}

/* Gives a job its memory, which is one piece: `common` floats, and for each worker room for zeros and for the transforms
 * of the tiles at once, of what is read and of so many other columns. Returns the piece; NULL: no memory. */
static void *begin(lsnn_winograd_job *job, const void *team, int64_t common, int64_t columns)
{
    const int64_t vector = job->loops->vector, at_once = job->loops->at_once;
    const int64_t read = lsnn_up(job->x.channels, vector), other = lsnn_up(job->other.channels, vector);
    const int64_t zeros = read > other ? read : other;
    const int64_t matrices = lsnn_position(at_once, read) + lsnn_position(at_once, columns);
    void *piece;
    float *start;
    job->room = whole_lines(zeros + positions_of(job) * matrices);
    common = whole_lines(common);
    start = lsnn_lines((common + lsnn_team_workers(team) * job->room) * (int64_t)sizeof *start, &piece);
    job->transformed = job->sums = start;
    job->scratch = start ? start + common : NULL;
    return piece;
}

/* Mean and variance from what the workers have added up. */
static void finish_moments(const lsnn_winograd_job *job, int32_t workers, float *mean, float *variance)
{
    const int64_t outputs = job->other.channels;
    const double count = (double)(job->images * job->other.height * job->other.width);
    int64_t c;
    for (c = 0; c < outputs; c++) {
        const double *moments = job->moments + c;
        double sum = 0, squares = 0;
        int32_t worker;
        for (worker = 0; worker < workers; worker++, moments += size_of_moments(job)) {
            sum += moments[0];
            squares += moments[outputs];
        }
        sum /= count;
        squares = squares / count - sum * sum;
        mean[c] = (float)sum;
        variance[c] = (float)(squares > 0 ? squares : 0);
    }
}

/* Only where a vector is a whole line: halves that are written apart would go to memory one by one. */
static int goes_past_the_cache(const lsnn_winograd_job *job)
{
    const lsnn_sheet *out = &job->other;
    const int64_t line = LSNN_LINE / (int64_t)sizeof(float);
    return job->loops->vector == line && out->channels % line == 0 && out->stride % line == 0 &&
           (uintptr_t)out->values % LSNN_LINE == 0 && job->images * out->height * out->width * out->channels > MANY_FLOATS;
}

/* `mean` and `variance` may be NULL. */
static int32_t convolve(void *team, lsnn_winograd_job *job, const float *weights, float *mean, float *variance)
{
    const int64_t pairs = job->x.channels * lsnn_up(job->other.channels, job->loops->vector);
    const int64_t transformed = whole_lines(positions_of(job) * pairs), moments = mean ? 2 * size_of_moments(job) : 0;
    void *piece = begin(job, team, transformed + lsnn_team_workers(team) * moments, job->loops->panel);
    int32_t workers;
    if (!piece)
        return 1;
    job->weights = weights;
    job->streaming = goes_past_the_cache(job);
    if (mean)
        job->moments = (double *)(job->transformed + transformed);
    lsnn_team_run(team, positions_of(job) * pairs, transform_task, job);
    /* The same for all vectors: as many workers take part, and moments do not depend on the instruction set. */
    workers = lsnn_team_run(team, tiles_of(job) * job->x.channels * job->other.channels, convolve_task, job);
    if (mean)
        finish_moments(job, workers, mean, variance);
    free(piece);
    return 0;
}

int32_t lsnn_winograd(void *team, int32_t n, const lsnn_convolution *convolution, const lsnn_map *input,
                      const float *weights, const lsnn_map *output, float *mean, float *variance)
{
    lsnn_winograd_job job = job_of(n, convolution, input, output);
    return convolve(team, &job, weights, mean, variance);
}

int32_t lsnn_winograd_input_gradient(void *team, int32_t n, const lsnn_convolution *convolution,
                                     const lsnn_map *output_gradient, const float *weights,
                                     const lsnn_map *input_gradient)
{
    lsnn_winograd_job job = job_of(n, convolution, input_gradient, output_gradient);
    const lsnn_sheet written = job.x;
    job.x = job.other;
    job.other = written;
    job.transposed = 1;
    return convolve(team, &job, weights, NULL, NULL);
}

/* As many inputs together as have sums that stay in the cache, or nearly, in equal parts. */
static int64_t inputs_together(const lsnn_winograd_job *job)
{
    const int64_t parts = 1 + size_of_sums(job) / MANY_SUMS;
    return lsnn_up((job->x.channels + parts - 1) / parts, job->loops->vector);
}

int32_t lsnn_winograd_weight_gradient(void *team, int32_t n, const lsnn_convolution *convolution,
                                      const lsnn_map *input, const lsnn_map *output_gradient,
                                      const lsnn_normalised *normalised, float *gradient)
{
    lsnn_winograd_job job = job_of(n, convolution, input, output_gradient);
    const int64_t part = inputs_together(&job), columns = lsnn_up(convolution->outputs, job.loops->vector);
    /* The same for all parts and vectors: as many workers take part, and numbers do not depend on the instruction set. */
    const int64_t elements = tiles_of(&job) * convolution->inputs * convolution->outputs;
    int64_t first;
    void *piece;
    job.x.channels = part;
    piece = begin(&job, team, lsnn_team_workers(team) * size_of_sums(&job), columns);
    if (!piece)
        return 1;
    job.all_inputs = convolution->inputs;
    for (first = 0; first < job.all_inputs; first += part) {
        job.x.values = (float *)input->values + first;
        job.x.channels = lsnn_smaller(job.all_inputs - first, part);
        job.gradient = gradient + first * LSNN_TAPS;
        job.normalised = first ? NULL : normalised; /* afterwards it is done */
        job.workers = lsnn_team_run(team, elements, add_task, &job);
        lsnn_team_run(team, size_of_sums(&job), finish_task, &job);
    }
    free(piece);
    return 0;
}
