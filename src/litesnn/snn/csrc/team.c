/* The workers are those of an OpenMP library, if there is one, or a pool of our own threads. */
#include "team.h"

#include <stdlib.h>

#include "training.h"

enum { LEAST_WORK = 1 << 15 }; /* elements for which waking a thread is worth it */

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

int32_t lsnn_team_workers(const void *members) { return ((const team *)members)->workers; }

int32_t lsnn_team_run(void *members, int64_t elements, lsnn_task *task, void *context)
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
