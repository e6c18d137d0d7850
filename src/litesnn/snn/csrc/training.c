/* Shares the loops of rows.h out over threads: every worker takes a run of rows, and sums are put together in order. */
#include "training.h"

#include <string.h>

#include "cpu.h"
#include "rows.h"
#include "team.h"

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

const lsnn_rows *lsnn_rows_in_use(void)
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

#define REAL float
#define END f
#include "training.inc"
#undef REAL
#undef END

#define REAL double
#define END d
#include "training.inc"
