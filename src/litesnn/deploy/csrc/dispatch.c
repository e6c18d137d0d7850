/* Which kernels this CPU can run. */
#include "cpu.h"
#include "kernel.h"

const lsnn_kernel_ops *lsnn_kernel_at(int32_t n)
{
#ifdef LSNN_HAVE_AVX512
    if (lsnn_has_avx512() && n-- == 0)
        return &lsnn_kernel_avx512;
#endif
#ifdef LSNN_HAVE_AVX2
    if (lsnn_has_avx2() && n-- == 0)
        return &lsnn_kernel_avx2;
#endif
#ifdef LSNN_HAVE_NEON
    if (n-- == 0)
        return &lsnn_kernel_neon;
#endif
    return n == 0 ? &lsnn_kernel_portable : NULL;
}
