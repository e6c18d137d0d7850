/* What a kernel does: the inner loops of the engine, one implementation for each instruction set.
 *
 * Every kernel is made from kernel.inc, whose plain C is the written meaning; an instruction set brings its vectors and
 * the full adder. Spikes are bits, least significant first: a plane holds one channel, image after image, each image
 * filled up to whole bytes, binary steps outermost: the timesteps, or of graded spikes every bit of every timestep. A
 * tile is 64 bytes of a plane: 512 neurons.
 */
#ifndef LSNN_KERNEL_H
#define LSNN_KERNEL_H

#include <stddef.h>
#include <stdint.h>

#include "loader.h"

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#error "bit b of byte i has to be bit 8 * i + b of a word: a little-endian machine is needed"
#endif

#if defined(__GNUC__)
#define INLINE static inline __attribute__((always_inline))
#else
#define INLINE static inline
#endif

#define LSNN_TILE 64          /* bytes */
#define LSNN_TILE_WORDS 8     /* 64-bit words */
#define LSNN_MAX_COUNT_PLANES 17 /* of a count of planes in a segment */
#define LSNN_MAX_PLANES 24    /* bit planes of a bit-sliced sum; its float32 is exact */

/* The weights of a bundle for the bit-sliced kernel. A segment of inputs is a list of planes: of every input its spikes
 * and their complement, and at the end a plane of zeros. For each segment and each output channel there are lists of
 * planes to add, by level of magnitude from the highest (2^bits - 1) to 1, each filled up to blocks of eight with
 * zeros. A negative weight adds the complement, which makes the sum too large by the constant in `excess`. */
typedef struct {
    int32_t channels, segments, levels;
    int32_t planes;             /* of the widest sum */
    int32_t count_planes;       /* of the widest count of planes in a segment */
    int32_t segment_inputs;
    const uint16_t *entries;    /* plane of a segment: 2 * input, and one more for the complement */
    const uint32_t *first;      /* [segments][channels]: where the lists begin, in entries */
    const uint16_t *blocks_at;  /* [segments][channels][levels] */
    const uint8_t *used_after;  /* [segments][channels]: planes of the sum after this segment */
    const uint8_t *used;        /* [channels]: planes of the sum */
    const int32_t *excess;      /* [channels] */
    uint64_t blocks;            /* of all lists */
} lsnn_bit_table;

/* From one segment's planes to the next, in words. */
static inline size_t lsnn_segment_words(int32_t inputs) { return ((size_t)inputs * 2 + 1) * LSNN_TILE_WORDS; }

/* Writes, for channels first..last-1, a tile of the planes of the sums: plane k of channel c goes to
 * out + (c * table->planes + k) * plane_bytes. */
typedef void lsnn_add(const lsnn_bit_table *table, int32_t first, int32_t last, const uint64_t *inputs, uint8_t *out,
                      size_t plane_bytes);

/* Copies of spike planes, shifted so that the neuron of an output sees the input that a tap of its kernel sees. */
typedef struct {
    const uint8_t *const *channels; /* [inputs] planes */
    int32_t inputs, taps;
    const int64_t *tap_bits;  /* [taps] how far a tap looks ahead, in bits from the plane's start */
    const uint8_t *mask;      /* [taps][mask_bytes]: ones where the tap is inside the image */
    size_t mask_bytes;
    int32_t segment_inputs;
    size_t segment_words;     /* from one segment's start to the next */
} lsnn_shift_job;

/* Fills one tile for input channels first..last-1, whose inputs are channel * taps + tap, each with its complement.
 * `at` is the tile's first byte. */
typedef void lsnn_shift(const lsnn_shift_job *job, int32_t first, int32_t last, size_t at, uint64_t *tile);

/* Sums a row of int8 weights for every event. rows: [inputs][stride]; sums: [stride], overwritten. */
typedef void lsnn_gather(const int8_t *rows, size_t stride, const uint32_t *events, size_t count, int32_t *sums);

/* One bundle's share of the input current of a population. */
typedef struct {
    const uint8_t *const *planes; /* [channels]: the first plane of the sum; NULL: take `sums` */
    size_t plane_bytes;           /* from one plane of a sum to the next */
    const uint8_t *used;          /* [channels] */
    const int32_t *excess;        /* [channels] */
    const int32_t *sums;          /* [channels][binary steps or 1][8][bytes]: bit j of byte i at [j][i] */
    int32_t sums_constant;        /* `sums` has one step, the same for all */
    int32_t bits;                 /* binary steps of a timestep, whose sums count 1, 2, 4 times */
    const lsnn_number *scale;     /* [channels] */
    int32_t shift;                /* fixed arithmetic only */
} lsnn_current;

typedef struct {
    int32_t timesteps, channels, current_count, fraction, soft;
    int32_t levels, bits; /* the largest spike, and its bits; graded spikes have the hard reset */
    size_t bytes; /* of one binary step of a plane */
    const lsnn_current *currents;
    const lsnn_number *bias;
    lsnn_number leak, reset; /* soft: what a spike takes; else it takes all */
    lsnn_number thresholds[LSNN_MAX_LEVELS]; /* [levels] a spike is how many of them the membrane is above */
    uint8_t *spikes; /* [channels] planes */
    size_t spike_bytes; /* from one channel's plane to the next */
} lsnn_fire_job;

/* Sums currents and fires neurons. A chunk is 64 bytes of the planes of one binary step, all channels after another. */
typedef void lsnn_fire(const lsnn_fire_job *job, size_t first_chunk, size_t last_chunk);

/* sums[i] = the weighted sum over k of inputs[k * plane + i], k < inputs */
typedef void lsnn_weigh(const int8_t *weights, int32_t input_count, const int8_t *inputs, size_t plane, size_t count,
                        int32_t *sums);

typedef struct {
    const char *name;
    int32_t vector_bytes;
    float block_cycles; /* about, as measured: adding eight planes of a tile in `add` */
    float row_cycles;   /* adding 64 weights in `gather` */
    lsnn_add *add;
    lsnn_shift *shift;
    lsnn_gather *gather;
    lsnn_fire *fire;
    lsnn_weigh *weigh;
    uint64_t (*full_adders)(uint64_t rounds); /* eight of a vector in a round, on registers only */
} lsnn_kernel_ops;

extern const lsnn_kernel_ops lsnn_kernel_portable, lsnn_kernel_avx2, lsnn_kernel_avx512, lsnn_kernel_neon;

/* dispatch.c: the n-th kernel that this CPU can run, fastest first; NULL after the last. */
const lsnn_kernel_ops *lsnn_kernel_at(int32_t n);

static inline size_t lsnn_chunks(int32_t channels, size_t bytes)
{
    return ((size_t)channels * bytes + LSNN_TILE - 1) / LSNN_TILE;
}

#endif
