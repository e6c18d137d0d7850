/* Shares the tiles of winograd_loops.h out over a team. */
#include "winograd.h"

#include <stdlib.h>
#include <string.h>

#include "rows.h"
#include "team.h"
#include "winograd_loops.h"

enum {
    LINE = 64,       /* bytes */
    MANY_INPUTS = 96 /* with which the sums of a weight gradient outgrow a cache that cores share */
};

int32_t lsnn_winograd_tile(int32_t n)
{
    const lsnn_winograd_loops *loops = lsnn_rows_in_use()->winograd;
    return loops && n >= 0 && n < LSNN_TILE_SIZES ? (int32_t)loops[n].side : 0;
}

static int64_t tiles_of(const lsnn_winograd_job *job)
{
    const int64_t side = job->loops->side;
    return job->maps.images * (lsnn_up(job->maps.height, side) / side) * (lsnn_up(job->maps.width, side) / side);
}

static int64_t positions_of(const lsnn_winograd_job *job) { return (job->loops->side + 2) * (job->loops->side + 2); }

/* Whole lines, so that no two workers write to the same one. */
static int64_t whole_lines(int64_t floats) { return lsnn_up(floats, LINE / (int64_t)sizeof(float)); }

static void transform_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    int64_t first, last;
    lsnn_share(job->maps.inputs, worker, workers, &first, &last);
    job->loops->transform(job, first, last);
}

static void convolve_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    int64_t first, last;
    lsnn_share(tiles_of(job), worker, workers, &first, &last);
    job->loops->convolve(job, first, last, job->scratch + worker * job->room);
}

static int64_t sums_of(const lsnn_winograd_job *job)
{
    const int64_t vector = job->loops->vector;
    return positions_of(job) * lsnn_up(job->maps.inputs, vector) * lsnn_up(job->maps.outputs, vector); /* whole lines */
}

static void add_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    const int64_t size = sums_of(job);
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
    lsnn_share(job->maps.inputs, worker, workers, &first, &last);
    job->loops->finish(job, first, last);
}

/* A job with its memory, which is one piece: `common` floats, and for each worker room for zeros and for the transforms
 * of a block of tiles, of inputs and of so many other columns. Returns the piece; NULL: no memory. */
static void *begin(lsnn_winograd_job *job, const void *team, int64_t common, int64_t columns)
{
    const int64_t inputs = lsnn_up(job->maps.inputs, job->loops->vector);
    const int64_t outputs = lsnn_up(job->maps.outputs, job->loops->vector);
    const int64_t zeros = inputs > outputs ? inputs : outputs;
    const int64_t at_once = job->loops->at_once;
    const int64_t matrices = lsnn_position(at_once, inputs) + lsnn_position(at_once, columns);
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

static lsnn_winograd_job job_of(int32_t tile, const lsnn_maps *maps, const lsnn_map *x, const lsnn_map *other)
{
    lsnn_winograd_job job;
    memset(&job, 0, sizeof job);
    job.loops = &lsnn_rows_in_use()->winograd[tile];
    job.maps = *maps;
    job.x = *x;
    job.other = *other;
    return job;
}

int32_t lsnn_winograd(void *team, int32_t tile, const lsnn_maps *maps, const lsnn_map *x, const float *weights,
                      int32_t transposed, const lsnn_map *out)
{
    lsnn_winograd_job job = job_of(tile, maps, x, out);
    const int64_t pairs = maps->inputs * lsnn_up(maps->outputs, job.loops->vector);
    void *piece = begin(&job, team, positions_of(&job) * pairs, job.loops->panel);
    if (!piece)
        return 1;
    job.weights = weights;
    job.transposed = transposed;
    lsnn_team_run(team, positions_of(&job) * pairs, transform_task, &job);
    lsnn_team_run(team, tiles_of(&job) * pairs, convolve_task, &job);
    free(piece);
    return 0;
}

/* As many inputs at once as have sums that stay in the cache, or nearly, in equal parts. */
static int64_t inputs_at_once(const lsnn_winograd_job *job)
{
    const int64_t parts = lsnn_up(job->maps.inputs, MANY_INPUTS) / MANY_INPUTS;
    return lsnn_up((job->maps.inputs + parts - 1) / parts, job->loops->vector);
}

int32_t lsnn_winograd_weight_gradient(void *team, int32_t tile, const lsnn_maps *maps, const lsnn_map *x,
                                      const lsnn_map *g, float *gradient)
{
    lsnn_winograd_job job = job_of(tile, maps, x, g);
    const int64_t columns = lsnn_up(maps->outputs, job.loops->vector), at_once = inputs_at_once(&job);
    int64_t first;
    void *piece;
    job.maps.inputs = at_once;
    piece = begin(&job, team, lsnn_team_workers(team) * sums_of(&job), columns);
    if (!piece)
        return 1;
    job.all_inputs = maps->inputs;
    for (first = 0; first < maps->inputs; first += at_once) {
        job.maps.inputs = lsnn_smaller(maps->inputs - first, at_once);
        job.x.values = (float *)x->values + first;
        job.gradient = gradient + first * LSNN_TAPS;
        job.workers = lsnn_team_run(team, tiles_of(&job) * job.maps.inputs * columns, add_task, &job);
        lsnn_team_run(team, sums_of(&job), finish_task, &job);
    }
    free(piece);
    return 0;
}
