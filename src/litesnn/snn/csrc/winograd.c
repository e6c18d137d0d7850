/* Shares the tiles of winograd_loops.h out over a team. */
#include "winograd.h"

#include <stdlib.h>
#include <string.h>

#include "rows.h"
#include "team.h"
#include "winograd_loops.h"

enum {
    LINE = 64,          /* bytes */
    MANY_SUMS = 1 << 20 /* with which those of a weight gradient outgrow a cache that cores share */
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

static int64_t tiles_of(const lsnn_winograd_job *job) { return job->images * job->grid.across * job->grid.down; }

static int64_t positions_of(const lsnn_winograd_job *job)
{
    const int64_t around = job->loops->stride * (job->loops->side - 1) + 3;
    return around * around;
}

/* Whole lines, so that no two workers write to the same one. */
static int64_t whole_lines(int64_t floats) { return lsnn_up(floats, LINE / (int64_t)sizeof(float)); }

static int64_t size_of_sums(const lsnn_winograd_job *job)
{
    const int64_t vector = job->loops->vector;
    return whole_lines(positions_of(job) * lsnn_up(job->x.channels, vector) * lsnn_up(job->other.channels, vector));
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
    int64_t first, last;
    lsnn_share(tiles_of(job), worker, workers, &first, &last);
    (job->transposed ? job->loops->convolve_back : job->loops->convolve)(job, first, last,
                                                                         job->scratch + worker * job->room);
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
    job->room = whole_lines(zeros + positions_of(job) * matrices);
    common = whole_lines(common);
    piece = malloc((size_t)(common + lsnn_team_workers(team) * job->room) * sizeof(float) + LINE);
    if (piece) {
        float *start = (float *)(((uintptr_t)piece + LINE - 1) / LINE * LINE);
        job->transformed = job->sums = start;
        job->scratch = start + common;
    }
    return piece;
}

static int32_t convolve(void *team, lsnn_winograd_job *job, const float *weights)
{
    const int64_t pairs = job->x.channels * lsnn_up(job->other.channels, job->loops->vector);
    void *piece = begin(job, team, positions_of(job) * pairs, job->loops->panel);
    if (!piece)
        return 1;
    job->weights = weights;
    lsnn_team_run(team, positions_of(job) * pairs, transform_task, job);
    lsnn_team_run(team, tiles_of(job) * pairs, convolve_task, job);
    free(piece);
    return 0;
}

int32_t lsnn_winograd(void *team, int32_t n, const lsnn_convolution *convolution, const lsnn_map *input,
                      const float *weights, const lsnn_map *output)
{
    lsnn_winograd_job job = job_of(n, convolution, input, output);
    return convolve(team, &job, weights);
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
    return convolve(team, &job, weights);
}

/* As many inputs together as have sums that stay in the cache, or nearly, in equal parts. */
static int64_t inputs_together(const lsnn_winograd_job *job)
{
    const int64_t parts = 1 + size_of_sums(job) / MANY_SUMS;
    return lsnn_up((job->x.channels + parts - 1) / parts, job->loops->vector);
}

int32_t lsnn_winograd_weight_gradient(void *team, int32_t n, const lsnn_convolution *convolution,
                                      const lsnn_map *input, const lsnn_map *output_gradient, float *gradient)
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
        job.workers = lsnn_team_run(team, elements, add_task, &job);
        lsnn_team_run(team, size_of_sums(&job), finish_task, &job);
    }
    free(piece);
    return 0;
}
