/* A pool of threads that sleep while there is nothing to do. In a child of fork() it starts threads anew when it is first
 * run there; the process must not fork while the pool runs a task that the child should go on with. */
#ifndef LSNN_THREADS_H
#define LSNN_THREADS_H

#include <stdint.h>

typedef struct lsnn_pool lsnn_pool;

/* One worker's share of a task. The caller is worker 0. */
typedef void lsnn_task(void *context, int32_t worker, int32_t workers);

/* A pool of `workers` threads, the caller included; fewer if the system gives no more. NULL: no memory. */
lsnn_pool *lsnn_pool_start(int32_t workers);
void lsnn_pool_stop(lsnn_pool *pool);
int32_t lsnn_pool_workers(const lsnn_pool *pool);

/* Runs the task on every worker, and returns when all have finished. */
void lsnn_pool_run(lsnn_pool *pool, lsnn_task *task, void *context);

/* The part of 0..count-1 that a worker takes. */
static inline void lsnn_share(int64_t count, int32_t worker, int32_t workers, int64_t *first, int64_t *last)
{
    *first = count * worker / workers;
    *last = count * (worker + 1) / workers;
}

#endif
