/* Shares the loops of rows.h out over threads: every worker takes a run of rows, and sums are put together in order. */
#include "training.h"

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

void *lsnn_training_start(int32_t workers) { return lsnn_pool_start(workers); }
void lsnn_training_stop(void *pool) { lsnn_pool_stop(pool); }

/* Runs a task on all workers, or on the caller alone if there is little to do. Returns how many took part. */
static int32_t run(void *pool, int64_t elements, lsnn_task *task, void *context)
{
    if (elements < LEAST_WORK) {
        task(context, 0, 1);
        return 1;
    }
    lsnn_pool_run(pool, task, context);
    return lsnn_pool_workers(pool);
}

#define REAL float
#define END f
#include "training.inc"
#undef REAL
#undef END

#define REAL double
#define END d
#include "training.inc"
