/* Which instruction sets this CPU and its system have. Asked of the CPU itself: not every compiler's library answers.
   The environment variable LITESNN_CPU names the most that is to be used (litesnn/cpu.py). */
#include "cpu.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && defined(__GNUC__)
#include <cpuid.h>

/* The states that the operating system keeps for every program: XCR0. */
static uint32_t kept_states(void)
{
    uint32_t low, high;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return low;
}

static int all(uint32_t value, uint32_t bits) { return (value & bits) == bits; }

/* Whether LITESNN_CPU is this one. */
static int limited_to(const char *name)
{
    const char *most = getenv("LITESNN_CPU");
    return most && !strcmp(most, name);
}

int lsnn_has_avx2(void)
{
    const uint32_t osxsave = 1u << 27, avx = 1u << 28, fma = 1u << 12, popcnt = 1u << 23, ymm = 6;
    const uint32_t bmi1 = 1u << 3, avx2 = 1u << 5, bmi2 = 1u << 8;
    unsigned a, b, c, d;
    if (limited_to("x86-64"))
        return 0;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !all(c, osxsave | avx | fma | popcnt) || !all(kept_states(), ymm))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && all(b, bmi1 | avx2 | bmi2);
}

int lsnn_has_avx512(void)
{
    const uint32_t f = 1u << 16, dq = 1u << 17, bw = 1u << 30, vl = 1u << 31, zmm = 0xE6;
    unsigned a, b, c, d;
    if (limited_to("avx2") || !lsnn_has_avx2() || !all(kept_states(), zmm))
        return 0;
    return __get_cpuid_count(7, 0, &a, &b, &c, &d) && all(b, f | dq | bw | vl);
}

#else

int lsnn_has_avx2(void) { return 0; }
int lsnn_has_avx512(void) { return 0; }

#endif
