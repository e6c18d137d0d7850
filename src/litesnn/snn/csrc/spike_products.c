/* Shares the rows of spike_products_loops.h out over a team. */
#include "spike_products.h"

#include <string.h>

#include "spike_products_loops.h"
#include "rows.h"
#include "sizes.h"
#include "team.h"

int32_t lsnn_has_spike_products(void) { return lsnn_rows_in_use()->products != NULL; }

static int64_t whole_lines(int64_t bytes) { return lsnn_up(bytes, LSNN_LINE); }

/* Events of the rows at once: a value and a place for each input, and room for a vector more. */
static int64_t room_for(const lsnn_products_loops *loops, int64_t inputs)
{
    return whole_lines(loops->at_once * (inputs + loops->vector) * (int64_t)(sizeof(float) + sizeof(int32_t)));
}

static int64_t padded(const lsnn_products_loops *loops, int64_t columns) { return lsnn_up(columns, loops->vector); }

/* A matrix [rows, columns] in panels. */
static void into_panels(const lsnn_products_loops *loops, const float *matrix, int64_t rows, int64_t columns, float *to)
{
    int64_t panel, row, column;
    for (panel = 0; panel < columns; panel += loops->panel) {
        const int64_t width = lsnn_smaller(padded(loops, columns - panel), loops->panel);
        for (row = 0; row < rows; row++)
            for (column = panel; column < panel + width; column++)
                *to++ = column < columns ? matrix[row * columns + column] : 0;
    }
}

static void combine_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_products_job *job = context;
    int64_t first, last;
    lsnn_share(job->rows, worker, workers, &first, &last);
    job->loops->combine(job, first, last, job->scratch + worker * job->room);
}

int32_t lsnn_combine(void *team, int64_t rows, int32_t maps, const lsnn_map *map, const int64_t *columns,
                     const float *matrix, const lsnn_map *dense, int64_t dense_columns, const float *dense_matrix,
                     const float *bias, int32_t adding, const lsnn_map *out, int64_t outputs)
{
    lsnn_products_job job;
    int64_t width, floats;
    float *packed;
    void *piece;
    int32_t n;
    memset(&job, 0, sizeof job);
    job.loops = lsnn_rows_in_use()->products;
    job.rows = rows;
    job.maps = maps;
    job.map = map;
    job.columns = columns;
    for (n = 0; n < maps; n++)
        job.inputs += columns[n];
    job.outputs = outputs;
    job.dense_inputs = dense_columns;
    job.adding = adding;
    job.other = *out;
    job.room = room_for(job.loops, job.inputs);
    width = padded(job.loops, outputs);
    floats = (job.inputs + dense_columns + 1) * width;
    packed = lsnn_lines(whole_lines(floats * (int64_t)sizeof *packed) + lsnn_team_workers(team) * job.room, &piece);
    if (!packed)
        return 1;
    into_panels(job.loops, matrix, job.inputs, outputs, packed);
    job.matrix = packed;
    job.dense_matrix = packed + job.inputs * width;
    if (dense_columns) {
        job.dense = *dense;
        into_panels(job.loops, dense_matrix, dense_columns, outputs, packed + job.inputs * width);
    }
    job.bias = packed + (job.inputs + dense_columns) * width;
    into_panels(job.loops, bias, 1, outputs, packed + (job.inputs + dense_columns) * width);
    job.scratch = (char *)packed + whole_lines(floats * (int64_t)sizeof *packed);
    lsnn_team_run(team, rows * (outputs + job.inputs), combine_task, &job);
    free(piece);
    return 0;
}

/* What a worker of lsnn_gram has for itself: totals, sums in panels, and events. */
static int64_t size_of_totals(const lsnn_products_job *job)
{
    return whole_lines(job->inputs * (job->outputs + 1) * (int64_t)sizeof(double));
}

static int64_t size_of_sums(const lsnn_products_job *job)
{
    return whole_lines(job->inputs * (padded(job->loops, job->outputs) + 1) * (int64_t)sizeof(float));
}

static void gram_task(void *context, int32_t worker, int32_t workers)
{
    const lsnn_products_job *job = context;
    char *own = job->scratch + worker * job->room, *sums = own + size_of_totals(job);
    char *scratch = sums + size_of_sums(job);
    int64_t first, last;
    memset(own, 0, (size_t)(scratch - own));
    lsnn_share(job->rows, worker, workers, &first, &last);
    job->loops->gram(job, first, last, scratch, (float *)sums, (double *)own);
}

int32_t lsnn_gram(void *team, int64_t rows, const lsnn_map *x, int64_t inputs, const lsnn_map *y, int64_t outputs,
                  double *gram, double *sums)
{
    const int64_t values = inputs * outputs;
    lsnn_products_job job;
    double *totals;
    void *piece;
    int64_t i;
    int32_t worker, workers;
    memset(&job, 0, sizeof job);
    job.loops = lsnn_rows_in_use()->products;
    job.rows = rows;
    job.maps = 1;
    job.map = x;
    job.columns = &inputs;
    job.inputs = inputs;
    job.outputs = outputs;
    job.other = *y;
    job.summing = sums != NULL;
    job.room = size_of_totals(&job) + size_of_sums(&job) + room_for(job.loops, inputs);
    job.scratch = lsnn_lines(lsnn_team_workers(team) * job.room, &piece);
    if (!job.scratch)
        return 1;
    workers = lsnn_team_run(team, rows * (inputs + outputs), gram_task, &job);
    totals = (double *)job.scratch;
    for (worker = 1; worker < workers; worker++)
        for (i = 0; i < values + inputs; i++)
            totals[i] += ((const double *)(job.scratch + worker * job.room))[i];
    memcpy(gram, totals, (size_t)values * sizeof *gram);
    if (sums)
        memcpy(sums, totals + values, (size_t)inputs * sizeof *sums);
    free(piece);
    return 0;
}
