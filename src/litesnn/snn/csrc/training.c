/* Shares the loops of rows.h out over threads: every worker takes a run of rows, and sums are put together in order. */
#include "training.h"

#include <stdlib.h>
#include <string.h>

#include "cpu.h"
#include "rows.h"
#include "threads.h"

enum { LEAST_WORK = 1 << 15 }; /* elements for which waking a thread is worth it */

static const lsnn_rows *chosen;

const lsnn_rows *lsnn_rows_at(int32_t n)
{
#ifdef LSNN_HAVE_AVX512
    if (lsnn_has_avx512() && n-- == 0)
        return &lsnn_rows_avx512;
#endif
#ifdef LSNN_HAVE_AVX2
    if (lsnn_has_avx2() && n-- == 0)
        return &lsnn_rows_avx2;
#endif
    return n == 0 ? &lsnn_rows_portable : NULL;
}

static const lsnn_rows *rows_in_use(void)
{
    if (!chosen)
        chosen = lsnn_rows_at(0);
    return chosen;
}

int32_t lsnn_training_abi(void) { return LSNN_TRAINING_ABI; }

const char *lsnn_training_kernel(int32_t n)
{
    const lsnn_rows *rows = n < 0 ? NULL : lsnn_rows_at(n);
    return rows ? rows->name : NULL;
}

void lsnn_training_use(int32_t n)
{
    const lsnn_rows *rows = n < 0 ? NULL : lsnn_rows_at(n);
    if (rows)
        chosen = rows;
}

typedef struct {
    lsnn_fork *fork;
    lsnn_pool *pool; /* if there is no fork */
    int32_t workers;
} team;

typedef struct {
    lsnn_task *task;
    void *context;
    int32_t workers, next;
} forked;

void *lsnn_training_start(int32_t workers, lsnn_fork *fork)
{
    team *made = calloc(1, sizeof *made);
    if (!made)
        return NULL;
    made->workers = workers;
#if defined(__GNUC__) /* for atomic counters */
    made->fork = fork;
#else
    (void)fork;
#endif
    if (!made->fork) {
        made->pool = lsnn_pool_start(workers);
        if (!made->pool) {
            free(made);
            return NULL;
        }
        made->workers = lsnn_pool_workers(made->pool);
    }
    return made;
}

void lsnn_training_stop(void *stopped)
{
    team *members = stopped;
    if (members)
        lsnn_pool_stop(members->pool);
    free(members);
}

#if defined(__GNUC__)
/* One thread's part of a task. Should there be fewer threads than workers, some do the part of several. */
static void take_part(void *data)
{
    forked *job = data;
    int32_t worker;
    while ((worker = __atomic_fetch_add(&job->next, 1, __ATOMIC_RELAXED)) < job->workers)
        job->task(job->context, worker, job->workers);
}
#endif

/* Runs a task on all workers, or on the caller alone if there is little to do. Returns how many took part. */
static int32_t run(void *members, int64_t elements, lsnn_task *task, void *context)
{
    const team *all = members;
    if (elements < LEAST_WORK || all->workers == 1) {
        task(context, 0, 1);
        return 1;
    }
#if defined(__GNUC__)
    if (all->fork) {
        forked job;
        job.task = task;
        job.context = context;
        job.workers = all->workers;
        job.next = 0;
        all->fork(take_part, &job, (unsigned)all->workers, 0);
        return all->workers;
    }
#endif
    lsnn_pool_run(all->pool, task, context);
    return all->workers;
}

#define REAL float
#define END f
#include "training.inc"
#undef REAL
#undef END

#define REAL double
#define END d
#include "training.inc"
