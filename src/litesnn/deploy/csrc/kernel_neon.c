/* NEON (AArch64): 128-bit vectors. */
#include <arm_neon.h>

#define NAME(x) neon_##x
#define AT_ONCE 1

typedef uint64x2_t vec;

static inline vec vec_load(const void *from) { return vreinterpretq_u64_u8(vld1q_u8((const uint8_t *)from)); }
static inline void vec_store(void *to, vec v) { vst1q_u8((uint8_t *)to, vreinterpretq_u8_u64(v)); }
static inline vec vec_zero(void) { return vdupq_n_u64(0); }
static inline vec vec_and(vec a, vec b) { return vandq_u64(a, b); }
static inline vec vec_xor(vec a, vec b) { return veorq_u64(a, b); }
static inline vec vec_not(vec a) { return veorq_u64(a, vdupq_n_u64(~UINT64_C(0))); }
static inline vec vec_add_bytes(vec a, vec b)
{
    return vreinterpretq_u64_u8(vaddq_u8(vreinterpretq_u8_u64(a), vreinterpretq_u8_u64(b)));
}
static inline vec vec_fill(uint64_t word) { return vdupq_n_u64(word); }
static inline vec vec_shift_left(vec a, int n) { return vshlq_u64(a, vdupq_n_s64(n)); }
static inline vec vec_shift_right(vec a, int n) { return vshlq_u64(a, vdupq_n_s64(-n)); }
static inline vec vec_sum(vec a, vec b, vec c) { return veorq_u64(a, veorq_u64(b, c)); }
/* Where b and c differ the carry is a, else it is b. */
static inline vec vec_carry(vec a, vec b, vec c) { return vbslq_u64(veorq_u64(b, c), a, b); }

#include "kernel.inc"

const lsnn_kernel_ops lsnn_kernel_neon = KERNEL_OPS("neon", 80.0f, 6.0f);
