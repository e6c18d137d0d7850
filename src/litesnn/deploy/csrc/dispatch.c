/* Which kernels this CPU can run. Asked of the CPU itself: not every compiler's library answers for it. */
#include "kernel.h"

#if defined(LSNN_HAVE_AVX2) || defined(LSNN_HAVE_AVX512)
#include <cpuid.h>

/* The states that the operating system keeps for every program: XCR0. */
static uint32_t kept_states(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int all(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

static int has_avx2(void)
{
    const uint32_t osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, ymm = 6;
    const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    unsigned a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, osxsave | avx | fma) || !all(kept_states(), ymm))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && all(b, bmi1 | avx2 | bmi2);
}
#endif

#ifdef LSNN_HAVE_AVX512
static int has_avx512(void)
{
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, zmm = 0xE6;
    unsigned a, b, c, d;
    return has_avx2() && all(kept_states(), zmm) && __get_cpuid_count(7, 0, &a, &b, &c, &d) && all(b, f | dq | bw | vl);
}
#endif

const lsnn_kernel_ops *lsnn_kernel_at(int32_t n)
{
#ifdef LSNN_HAVE_AVX512
    if (has_avx512() && n-- == 0)
        return &lsnn_kernel_avx512;
#endif
#ifdef LSNN_HAVE_AVX2
    if (has_avx2() && n-- == 0)
        return &lsnn_kernel_avx2;
#endif
#ifdef LSNN_HAVE_NEON
    if (n-- == 0)
        return &lsnn_kernel_neon;
#endif
    return n == 0 ? &lsnn_kernel_portable : NULL;
}
