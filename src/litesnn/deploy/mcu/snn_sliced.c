/* The bit-sliced kernel: 32 lanes at a time, counted in vertical counters, without branches on spikes.
 *
 * A spike plane is a row of bits, so a weight's spikes for 32 lanes are one word, at any bit offset. Bit k of a counter
 * is one word, for 32 lanes. Eight weights are added by carry-save adders (Harley-Seal). Magnitudes come from a running
 * count over the magnitudes m, largest first:
 *
 *     sum |w| s = 2 * (C>=15 + C>=13 + ... + C>=3) + C>=1        C>=m: spikes of weights with |w| >= m
 *
 * and a negative weight is a positive one of the complement: -|w| s = |w| (1 - s) - |w|. Nothing is multiplied.
 */
#include "snn_strict.h"

#include "snn_internal.h"

#if SNN_WITH_SLICED

/* An entry of snn_row says where the weight's spikes begin: word and bit of the arena; and its sign. */
#define NEGATIVE 0x80000000u

static uint32_t load(const uint32_t *word, uint32_t entry) {
    const uint32_t *at = word + ((entry & ~NEGATIVE) >> 5);
    uint32_t bit = entry & 31u;
    uint32_t lanes = at[0] >> bit | (at[1] << 1) << (31u - bit); /* a shift by 32 is undefined */
    return lanes ^ (0u - (entry >> 31));
}

/* One full adder for 32 lanes: sum + a + b; the carry is returned. */
static uint32_t add(uint32_t *sum, uint32_t a, uint32_t b) {
    uint32_t either = a ^ b;
    uint32_t carry = (*sum & either) | (a & b);
    *sum ^= either;
    return carry;
}

/* Add one bit at weight 2^k. */
static void ripple(uint32_t *counter, uint32_t carry, uint32_t k) {
    for (; carry; k++) {
        uint32_t next = counter[k] & carry;
        counter[k] ^= carry;
        carry = next;
    }
}

/* Count `count` entries, for the 32 lanes at `word`. */
static void count_spikes(const uint32_t *word, const uint32_t *entry, uint32_t count, uint32_t *counter) {
    uint32_t ones = counter[0];
    uint32_t twos = counter[1];
    uint32_t fours = counter[2];
    for (; count >= 8; count -= 8, entry += 8) {
        uint32_t a = add(&ones, load(word, entry[0]), load(word, entry[1]));
        uint32_t b = add(&ones, load(word, entry[2]), load(word, entry[3]));
        uint32_t c = add(&twos, a, b);
        uint32_t d;
        a = add(&ones, load(word, entry[4]), load(word, entry[5]));
        b = add(&ones, load(word, entry[6]), load(word, entry[7]));
        d = add(&twos, a, b);
        ripple(counter, add(&fours, c, d), 3);
    }
    counter[0] = ones;
    counter[1] = twos;
    counter[2] = fours;
    for (; count >= 2; count -= 2, entry += 2) {
        ripple(counter, add(&counter[0], load(word, entry[0]), load(word, entry[1])), 1);
    }
    if (count) {
        ripple(counter, load(word, entry[0]), 0);
    }
}

static uint32_t bit_length(uint32_t value) {
    uint32_t bits = 0;
    for (; value; value >>= 1) {
        bits++;
    }
    return bits;
}

/* total += counter << shift, for counts of at most `most` */
static void accumulate(uint32_t *total, const uint32_t *counter, uint32_t most, uint32_t shift) {
    uint32_t width = bit_length(most);
    uint32_t carry = 0;
    uint32_t k;
    for (k = 0; k < width; k++) {
        carry = add(&total[k + shift], counter[k], carry);
    }
    ripple(total, carry, width + shift);
}

/* The 32 counters, minus `bias`, to `sums`. A nibble of every counter word makes four sums. */
static void store(const uint32_t *total, int32_t bias, snn_sum *sums) {
    static const uint32_t spread[16] = {0x00000000u, 0x00000001u, 0x00000100u, 0x00000101u, 0x00010000u, 0x00010001u,
                                        0x00010100u, 0x00010101u, 0x01000000u, 0x01000001u, 0x01000100u, 0x01000101u,
                                        0x01010000u, 0x01010001u, 0x01010100u, 0x01010101u};
    uint32_t shift, k;
    for (shift = 0; shift < 32; shift += 4, sums += 4) {
        uint32_t low = 0;
        uint32_t high = 0;
        for (k = 0; k < SNN_COUNTERS && k < 8; k++) {
            low |= spread[total[k] >> shift & 15u] << k;
        }
        for (; k < SNN_COUNTERS; k++) {
            high |= spread[total[k] >> shift & 15u] << (k - 8);
        }
        for (k = 0; k < 4; k++) {
            sums[k] = (snn_sum)((int32_t)((low >> 8 * k & 255u) | (high >> 8 * k & 255u) << 8) - bias);
        }
    }
}

/* How many of the weights have each magnitude 1, 3, 5, ... */
static void count_magnitudes(uint32_t count, uint32_t *sizes) {
    uint32_t i;
    for (i = 0; i < count; i++) {
        int32_t code = SNN_CODE(snn_row[i]);
        sizes[(uint32_t)(code < 0 ? -code : code) >> 1]++;
    }
}

/* Turn snn_row into entries, grouped by magnitude, largest first. ends[g]: where group g ends; group 0 has |w| = 1.
 * Returns the sum of the magnitudes of the negative weights. */
static int32_t prepare(const snn_bundle *bundle, uint32_t count, uint32_t groups, uint32_t *ends) {
    const uint8_t *source = bundle->maps;
    const snn_map *map = &snn_network.maps[*source];
    const snn_tap *taps = bundle->taps;
    uint32_t words = snn_network.grids[map->grid].words;
    uint32_t step = 32u * words * map->planes; /* lanes from channel to channel */
    uint32_t first_channel = 0;
    uint32_t last_channel = map->channels; /* the one after the last of this map */
    uint32_t first_lane = 32u * map->first;
    uint32_t *sorted = groups > 1 ? &snn_row[count] : snn_row;
    uint32_t next[8] = {0}; /* entry of each group */
    int32_t bias = 0;
    uint32_t i, g;
    if (groups > 1) {
        uint32_t place = 0;
        count_magnitudes(count, next);
        for (g = groups; g-- > 0;) {
            uint32_t size = next[g];
            next[g] = place;
            place += size;
            ends[g] = place;
        }
    } else {
        ends[0] = count;
    }
    for (i = 0; i < count; i++) {
        uint32_t weight = snn_row[i];
        uint32_t channel = SNN_CHANNEL(weight);
        int32_t code = SNN_CODE(weight);
        uint32_t sign = 0;
        while (channel >= last_channel) {
            map = &snn_network.maps[*++source];
            first_channel = last_channel;
            last_channel += map->channels;
            first_lane = 32u * map->first;
        }
        if (code < 0) {
            sign = NEGATIVE;
            code = -code;
            bias += code;
        }
        weight = (first_lane + (channel - first_channel) * step + (uint32_t)taps[SNN_TAP(weight)].lanes) | sign;
        if (groups > 1) {
            sorted[next[(uint32_t)code >> 1]++] = weight;
        } else {
            snn_row[i] = weight;
        }
    }
    return bias;
}

void snn_sliced_row(const snn_bundle *bundle, uint32_t count, uint32_t margin) {
    uint32_t words = snn_network.grids[snn_network.maps[bundle->maps[0]].grid].words;
    uint32_t groups = 1u << (bundle->weights.bits - 1);
    uint32_t ends[8];
    int32_t bias = prepare(bundle, count, groups, ends);
    const uint32_t *sorted = groups > 1 ? &snn_row[count] : snn_row;
    uint32_t j, g;
    for (j = 0; j < words; j++) {
        uint32_t total[SNN_COUNTERS] = {0};
        uint32_t counter[SNN_COUNTERS] = {0};
        uint32_t start = 0;
        for (g = groups; g-- > 0; start = ends[g]) {
            count_spikes(&snn_arena[j], &sorted[start], ends[g] - start, counter);
            if (g > 0) {
                accumulate(total, counter, ends[g], 1);
            }
        }
        if (groups > 1) {
            accumulate(total, counter, count, 0);
        }
        store(groups > 1 ? total : counter, bias, &snn_sums[margin + 32u * j]);
    }
}

#endif
