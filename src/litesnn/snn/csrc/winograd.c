/* Shares the tiles of winograd_loops.h out over a team. */
#include "winograd.h"

#include <stdlib.h>
#include <string.h>

#include "rows.h"
#include "team.h"
#include "winograd_loops.h"

enum { LINE = 64 }; /* bytes */

int32_t lsnn_winograd_here(void) { return lsnn_rows_in_use()->winograd != NULL; }

static int64_t tiles_of(const lsnn_maps *maps)
{
    return maps->images * ((maps->height + 1) / 2) * ((maps->width + 1) / 2);
}

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
    lsnn_share(tiles_of(&job->maps), worker, workers, &first, &last);
    job->loops->convolve(job, first, last, job->scratch + worker * job->room);
}

static int64_t sums_of(const lsnn_winograd_job *job)
{
    const int64_t vector = job->loops->vector;
    return LSNN_POSITIONS * lsnn_up(job->maps.inputs, vector) * lsnn_up(job->maps.outputs, vector); /* whole lines */
}

static void add_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_winograd_job *job = context;
    const int64_t size = sums_of(job);
    float *sums = job->sums + worker * size;
    int64_t first, last;
    lsnn_share(tiles_of(&job->maps), worker, workers, &first, &last);
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
    void *piece;
    job->room = whole_lines(zeros + LSNN_POSITIONS * (lsnn_position(inputs) + lsnn_position(columns)));
    common = whole_lines(common);
    piece = malloc((size_t)(common + lsnn_team_workers(team) * job->room) * sizeof(float) + LINE);
    if (piece) {
        float *start = (float *)(((uintptr_t)piece + LINE - 1) / LINE * LINE);
        job->transformed = job->sums = start;
        job->scratch = start + common;
    }
    return piece;
}

static lsnn_winograd_job job_of(const lsnn_maps *maps, const lsnn_map *x, const lsnn_map *other)
{
    lsnn_winograd_job job;
    memset(&job, 0, sizeof job);
    job.loops = lsnn_rows_in_use()->winograd;
    job.maps = *maps;
    job.x = *x;
    job.other = *other;
    return job;
}

int32_t lsnn_winograd(void *team, const lsnn_maps *maps, const lsnn_map *x, const float *weights, int32_t transposed,
                      const lsnn_map *out)
{
    lsnn_winograd_job job = job_of(maps, x, out);
    const int64_t pairs = maps->inputs * lsnn_up(maps->outputs, job.loops->vector);
    void *piece = begin(&job, team, LSNN_POSITIONS * pairs, job.loops->panel);
    if (!piece)
        return 1;
    job.weights = weights;
    job.transposed = transposed;
    lsnn_team_run(team, pairs * LSNN_POSITIONS, transform_task, &job);
    lsnn_team_run(team, tiles_of(maps) * pairs, convolve_task, &job);
    free(piece);
    return 0;
}

int32_t lsnn_winograd_weight_gradient(void *team, const lsnn_maps *maps, const lsnn_map *x, const lsnn_map *g,
                                      float *gradient)
{
    lsnn_winograd_job job = job_of(maps, x, g);
    const int64_t columns = lsnn_up(maps->outputs, job.loops->vector);
    void *piece = begin(&job, team, lsnn_team_workers(team) * sums_of(&job), columns);
    if (!piece)
        return 1;
    job.gradient = gradient;
    job.workers = lsnn_team_run(team, tiles_of(maps) * maps->inputs * columns, add_task, &job);
    lsnn_team_run(team, sums_of(&job), finish_task, &job);
    free(piece);
    return 0;
}
