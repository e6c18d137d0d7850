/* The run-time form of a bundle's weights: lists of planes for the bit-sliced kernel, rows for gather. */
#ifndef LSNN_TABLES_H
#define LSNN_TABLES_H

#include "kernel.h"

/* Inputs (channels times taps) of one segment: their planes and the one of zeros have numbers of 16 bits. */
#define LSNN_SEGMENT_INPUTS 32767

/* What a bit-sliced sum of these synapses takes: its planes, at most INT32_MAX, and blocks of eight entries. */
void lsnn_bit_cost(const lsnn_synapses *synapses, int32_t channels, int32_t *planes, uint64_t *blocks);

/* Makes the table; the bytes of its arrays, or 0 if there is no memory. Sums have at most LSNN_MAX_PLANES planes. */
uint64_t lsnn_bit_table_make(lsnn_bit_table *table, const lsnn_synapses *synapses, int32_t channels);
void lsnn_bit_table_free(lsnn_bit_table *table);

/* int8 rows [inputs * taps][stride], one weight for each output channel; NULL if there is no memory. */
int8_t *lsnn_rows_make(const lsnn_synapses *synapses, int32_t channels, size_t *stride);

static inline int32_t lsnn_taps(const lsnn_synapses *synapses) { return synapses->kernel * synapses->kernel; }

#endif
