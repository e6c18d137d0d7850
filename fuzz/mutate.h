/* Engine images from what a mutation has left of one. */
#ifndef FUZZ_MUTATE_H
#define FUZZ_MUTATE_H

#include <stddef.h>
#include <stdint.h>

/* Xorshift, which never leaves 0: that counts as 1. */
static inline uint32_t next_random(uint32_t *state)
{
    uint32_t x = *state ? *state : 1;
    x ^= x << 13;
    x ^= x >> 17;
    x ^= x << 5;
    return *state = x;
}

/* Writes the magic, the version and the size where they belong. */
void seal(uint8_t *image, size_t size);

/* Rewrites what is left of an image as one that keeps nearly every rule: a number stays as it is if it may stand where
 * it stands, and becomes a small one if not; where nothing is left to read, it is random. Returns the bytes written to
 * `out`, or 0 if they would be more than `most`. */
size_t mend(const uint8_t *image, size_t size, uint8_t *out, size_t most, uint32_t random);

#endif
