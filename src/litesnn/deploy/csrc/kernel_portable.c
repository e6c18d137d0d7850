/* The plain C kernel: 64-bit words, which compilers turn into whatever vectors the target has. */
#include <stdint.h>
#include <string.h>

#define NAME(x) portable_##x
#define AT_ONCE 8

typedef uint64_t vec;

static inline vec vec_load(const void *from)
{
    vec v;
    memcpy(&v, from, sizeof v);
    return v;
}
static inline void vec_store(void *to, vec v) { memcpy(to, &v, sizeof v); }
static inline vec vec_zero(void) { return 0; }
static inline vec vec_and(vec a, vec b) { return a & b; }
static inline vec vec_xor(vec a, vec b) { return a ^ b; }
static inline vec vec_not(vec a) { return ~a; }
static inline vec vec_add_bytes(vec a, vec b)
{
    const vec low = UINT64_C(0x7F7F7F7F7F7F7F7F);
    return ((a & low) + (b & low)) ^ ((a ^ b) & ~low);
}
static inline vec vec_fill(uint64_t word) { return word; }
static inline vec vec_shift_left(vec a, int n) { return a << n; }
static inline vec vec_shift_right(vec a, int n) { return a >> n; }
static inline vec vec_sum(vec a, vec b, vec c) { return a ^ b ^ c; }
static inline vec vec_carry(vec a, vec b, vec c) { return (a & (b ^ c)) | (b & c); }

#include "kernel.inc"

const lsnn_kernel_ops lsnn_kernel_portable = KERNEL_OPS("portable", 90.0f, 10.0f);
