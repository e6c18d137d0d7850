#include "threads.h"

#include <stdlib.h>

#ifdef _WIN32

struct lsnn_pool {
    int32_t workers;
};

lsnn_pool *lsnn_pool_start(int32_t workers)
{
    lsnn_pool *pool = calloc(1, sizeof *pool);
    (void)workers; /* one thread, until there is someone to test more */
    if (pool)
        pool->workers = 1;
    return pool;
}

void lsnn_pool_stop(lsnn_pool *pool) { free(pool); }

void lsnn_pool_run(lsnn_pool *pool, lsnn_task *task, void *context)
{
    (void)pool;
    task(context, 0, 1);
}

#else

#include <pthread.h>

typedef struct {
    lsnn_pool *pool;
    int32_t worker;
    pthread_t thread;
} helper;

struct lsnn_pool {
    int32_t workers;
    helper *helpers; /* [workers - 1] */
    pthread_mutex_t mutex;
    pthread_cond_t begin, end;
    lsnn_task *task; /* NULL: stop */
    void *context;
    uint64_t round;  /* of tasks */
    int32_t busy;    /* helpers that have not finished this round's */
};

static void *help(void *argument)
{
    const helper *me = argument;
    lsnn_pool *pool = me->pool;
    uint64_t done = 0;
    for (;;) {
        lsnn_task *task;
        void *context;
        int32_t workers;
        pthread_mutex_lock(&pool->mutex);
        while (pool->round == done)
            pthread_cond_wait(&pool->begin, &pool->mutex);
        done = pool->round;
        task = pool->task;
        context = pool->context;
        workers = pool->workers;
        pthread_mutex_unlock(&pool->mutex);
        if (!task)
            return NULL;
        task(context, me->worker, workers);
        pthread_mutex_lock(&pool->mutex);
        if (--pool->busy == 0)
            pthread_cond_signal(&pool->end);
        pthread_mutex_unlock(&pool->mutex);
    }
}

lsnn_pool *lsnn_pool_start(int32_t workers)
{
    lsnn_pool *pool = calloc(1, sizeof *pool);
    int32_t i;
    if (!pool)
        return NULL;
    pool->workers = 1;
    pool->helpers = calloc((size_t)workers, sizeof *pool->helpers);
    if (!pool->helpers) {
        free(pool);
        return NULL;
    }
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    for (i = 1; i < workers; i++) {
        helper *made = &pool->helpers[i - 1];
        made->pool = pool;
        made->worker = i;
        if (pthread_create(&made->thread, NULL, help, made))
            break;
        pool->workers = i + 1; /* read by helpers under the mutex, and only after a task has come */
    }
    return pool;
}

/* Gives the helpers something to do; NULL ends them. */
static void begin(lsnn_pool *pool, lsnn_task *task, void *context)
{
    pthread_mutex_lock(&pool->mutex);
    pool->task = task;
    pool->context = context;
    pool->busy = pool->workers - 1;
    pool->round++;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);
}

void lsnn_pool_stop(lsnn_pool *pool)
{
    int32_t i;
    if (!pool)
        return;
    begin(pool, NULL, NULL);
    for (i = 1; i < pool->workers; i++)
        pthread_join(pool->helpers[i - 1].thread, NULL);
    pthread_cond_destroy(&pool->end);
    pthread_cond_destroy(&pool->begin);
    pthread_mutex_destroy(&pool->mutex);
    free(pool->helpers);
    free(pool);
}

void lsnn_pool_run(lsnn_pool *pool, lsnn_task *task, void *context)
{
    if (pool->workers > 1)
        begin(pool, task, context);
    task(context, 0, pool->workers);
    if (pool->workers > 1) {
        pthread_mutex_lock(&pool->mutex);
        while (pool->busy)
            pthread_cond_wait(&pool->end, &pool->mutex);
        pthread_mutex_unlock(&pool->mutex);
    }
}

#endif

int32_t lsnn_pool_workers(const lsnn_pool *pool) { return pool->workers; }
