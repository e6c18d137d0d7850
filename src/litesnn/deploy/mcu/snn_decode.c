/* Decodes the kept weights of one output channel at a time, straight from the streams of the packed file. */
#include "snn_strict.h"

#include "snn_internal.h"

static uint32_t low_bits(const uint8_t *bytes, uint32_t bit, uint32_t width) {
    uint32_t value = 0;
    uint32_t i;
    for (i = 0; i < width; i++) {
        value |= ((uint32_t)bytes[(bit + i) >> 3] >> ((bit + i) & 7u) & 1u) << i;
    }
    return value;
}

/* The next gap of a Rice code: how many weights are pruned before the next kept one. */
static uint32_t next_gap(const snn_weights *weights, snn_cursor *cursor) {
    uint32_t quotient = 0;
    uint32_t low = low_bits(weights->places, cursor->low, weights->rice);
    cursor->low += weights->rice;
    while (!(weights->places[cursor->stop >> 3] >> (cursor->stop & 7u) & 1u)) {
        quotient++;
        cursor->stop++;
    }
    cursor->stop++;
    return quotient << weights->rice | low;
}

/* The code of the next weight, as SNN_WEIGHT has it. `bits` are those of a code. */
static inline uint32_t next_code(snn_cursor *cursor, uint32_t bits, uint32_t mask) {
    uint32_t field;
    if (cursor->have < bits) {
        cursor->window |= (uint32_t)*cursor->codes++ << cursor->have;
        cursor->have += 8;
    }
    field = cursor->window & mask;
    cursor->window >>= bits;
    cursor->have -= bits;
    return 2 * field + 16 - mask; /* odd: 2 * field - (2^bits - 1), and 16 more */
}

void snn_rewind(const snn_weights *weights, snn_cursor *cursor) {
    cursor->codes = weights->codes;
    cursor->window = 0;
    cursor->have = 0;
    cursor->low = 0;
    cursor->stop = weights->kept * weights->rice;
    cursor->left = weights->kept;
    cursor->next = 0;
    if (weights->coding == SNN_GAPS && weights->kept) {
        cursor->next = next_gap(weights, cursor);
    }
}

uint32_t snn_decode(const snn_weights *weights, snn_cursor *cursor, uint32_t row) {
    snn_cursor at = *cursor; /* in registers */
    uint32_t bits = weights->bits;
    uint32_t mask = (1u << bits) - 1u;
    uint32_t taps = weights->taps;
    uint32_t place = row * weights->row;
    uint32_t end = place + weights->row;
    uint32_t channel = 0;
    uint32_t tap = 0;
    uint32_t *out = snn_row;
    if (weights->coding == SNN_GAPS) {
        while (at.left && at.next < end) {
            tap += at.next - place;
            place = at.next;
            while (tap >= taps) {
                tap -= taps;
                channel++;
            }
            *out++ = SNN_WEIGHT(channel, tap) | next_code(&at, bits, mask);
            at.left--;
            if (at.left) {
                at.next += next_gap(weights, &at) + 1;
            }
        }
    } else {
        int all = weights->coding == SNN_ALL_KEPT;
        for (; place < end; channel++) {
            for (tap = 0; tap < taps; tap++, place++) {
                if (all || (weights->places[place >> 3] >> (place & 7u) & 1u)) {
                    *out++ = SNN_WEIGHT(channel, tap) | next_code(&at, bits, mask);
                }
            }
        }
    }
    *cursor = at;
    return (uint32_t)(out - snn_row);
}
