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
    int32_t threads; /* of them that run, the caller included */
    int32_t forks;   /* of the process that started them */
    helper *helpers; /* [workers - 1] */
    pthread_mutex_t mutex;
    pthread_cond_t begin, end;
    lsnn_task *task; /* NULL: stop */
    void *context;
    uint64_t round;  /* of tasks */
    int32_t busy;    /* helpers that have not finished this round's */
};

/* A child of fork() has none of its parent's threads, and the mutex and the conditions are in whatever state the others
 * left them: to lock, to signal or to destroy them could wait for ever. So a pool knows in which process it was made. */
static int32_t forks; /* by which this process descends from the first one */
static int cannot_count_forks;

static void count_fork(void) { forks++; }

static void watch_forks(void) { cannot_count_forks = pthread_atfork(NULL, NULL, count_fork); }

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

/* Starts the threads; fewer than workers if the system gives no more. */
static void start(lsnn_pool *pool)
{
    int32_t i;
    pthread_mutex_init(&pool->mutex, NULL);
    pthread_cond_init(&pool->begin, NULL);
    pthread_cond_init(&pool->end, NULL);
    pool->threads = 1;
    pool->forks = forks;
    pool->round = 0;
    pool->busy = 0;
    for (i = 1; i < pool->workers; i++) {
        helper *made = &pool->helpers[i - 1];
        made->pool = pool;
        made->worker = i;
        if (pthread_create(&made->thread, NULL, help, made))
            break;
        pool->threads = i + 1;
    }
}

lsnn_pool *lsnn_pool_start(int32_t workers)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    lsnn_pool *pool;
    pthread_once(&once, watch_forks);
    pool = cannot_count_forks ? NULL : calloc(1, sizeof *pool);
    if (!pool)
        return NULL;
    pool->helpers = calloc((size_t)workers, sizeof *pool->helpers);
    if (!pool->helpers) {
        free(pool);
        return NULL;
    }
    pool->workers = workers;
    start(pool);
    pool->workers = pool->threads; /* read by helpers under the mutex, and only after a task has come */
    return pool;
}

/* Gives the helpers something to do; NULL ends them. */
static void begin(lsnn_pool *pool, lsnn_task *task, void *context)
{
    pthread_mutex_lock(&pool->mutex);
    pool->task = task;
    pool->context = context;
    pool->busy = pool->threads - 1;
    pool->round++;
    pthread_cond_broadcast(&pool->begin);
    pthread_mutex_unlock(&pool->mutex);
}

void lsnn_pool_stop(lsnn_pool *pool)
{
    int32_t i;
    if (!pool)
        return;
    if (pool->forks == forks) {
        begin(pool, NULL, NULL);
        for (i = 1; i < pool->threads; i++)
            pthread_join(pool->helpers[i - 1].thread, NULL);
        pthread_cond_destroy(&pool->end);
        pthread_cond_destroy(&pool->begin);
        pthread_mutex_destroy(&pool->mutex);
    }
    free(pool->helpers);
    free(pool);
}

void lsnn_pool_run(lsnn_pool *pool, lsnn_task *task, void *context)
{
    int32_t i;
    if (pool->workers == 1) {
        task(context, 0, 1);
        return;
    }
    if (pool->forks != forks)
        start(pool);
    begin(pool, task, context);
    task(context, 0, pool->workers);
    for (i = pool->threads; i < pool->workers; i++)
        task(context, i, pool->workers); /* of threads that a child of fork() did not get */
    pthread_mutex_lock(&pool->mutex);
    while (pool->busy)
        pthread_cond_wait(&pool->end, &pool->mutex);
    pthread_mutex_unlock(&pool->mutex);
}

#endif

int32_t lsnn_pool_workers(const lsnn_pool *pool) { return pool->workers; }
