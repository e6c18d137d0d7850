/* What the runtime's files share. */
#ifndef SNN_INTERNAL_H
#define SNN_INTERNAL_H

#include <stdint.h>

#include "snn.h"

/* Static memory, in snn_memory.c: sizes are the export's plan. */
extern uint32_t snn_arena[SNN_ARENA_WORDS]; /* spikes and the image */
extern uint32_t snn_row[SNN_ROW_WEIGHTS];   /* the weights of one output channel */
extern snn_sum snn_sums[SNN_SUMS];          /* sums of weights, for all lanes of one output channel */
extern uint16_t snn_events[SNN_EVENT_COUNT]; /* lanes of the spikes of one plane */

/* A kept weight in snn_row, in the order of the file: input channel, place in the kernel, and the code plus 16. */
#define SNN_WEIGHT(channel, tap) ((uint32_t)(channel) << 16 | (uint32_t)(tap) << 5)
#define SNN_CHANNEL(weight) ((weight) >> 16)
#define SNN_TAP(weight) (((weight) >> 5) & 0x7FFu)
#define SNN_CODE(weight) ((int32_t)((weight) & 31u) - 16)

/* How far a layer's streams have been read. */
typedef struct {
    const uint8_t *codes;
    uint32_t window; /* bits of codes that are read and not used, `have` of them */
    uint32_t have;
    uint32_t low, stop; /* bits of the places: of the next remainder, of the next quotient */
    uint32_t next;      /* place of the next weight */
    uint32_t left;
} snn_cursor;

/* Set a cursor to row 0. */
void snn_rewind(const snn_weights *weights, snn_cursor *cursor);

/* Decode the weights of the next output channel, number `row`, into snn_row. Returns how many they are. */
uint32_t snn_decode(const snn_weights *weights, snn_cursor *cursor, uint32_t row);

/* The kernels: sums of the `count` weights in snn_row for every lane; snn_sums[margin + lane], where only lanes of
 * pixels mean something. They may change snn_row. */
void snn_events_row(const snn_bundle *bundle, uint32_t count, uint32_t margin);
void snn_sliced_row(const snn_bundle *bundle, uint32_t count, uint32_t margin);

#endif
