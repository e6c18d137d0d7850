#include "tables.h"

#include <stdlib.h>
#include <string.h>

#define BLOCK 8
#define MAX_LEVELS 8

/* How often a channel's weights have each level within a segment; level i is the i-th from the top. */
typedef struct {
    uint32_t positive[MAX_LEVELS], negative[MAX_LEVELS];
} histogram;

static int32_t level_count(const lsnn_synapses *synapses) { return 1 << (synapses->bits - 1); }
static int level_of(int code, int levels) { return levels - 1 - (abs(code) - 1) / 2; }
static uint32_t magnitude(int level, int levels) { return (uint32_t)(2 * (levels - 1 - level) + 1); }
static uint32_t blocks_of(const histogram *found, int level)
{
    return (found->positive[level] + found->negative[level] + BLOCK - 1) / BLOCK;
}

static int64_t row_inputs(const lsnn_synapses *synapses) { return (int64_t)synapses->inputs * lsnn_taps(synapses); }
static int32_t segment_inputs(const lsnn_synapses *synapses)
{
    const int64_t inputs = row_inputs(synapses);
    return inputs < LSNN_SEGMENT_INPUTS ? (int32_t)inputs : LSNN_SEGMENT_INPUTS;
}
static int32_t segment_count(const lsnn_synapses *synapses)
{
    return (int32_t)((row_inputs(synapses) + LSNN_SEGMENT_INPUTS - 1) / LSNN_SEGMENT_INPUTS);
}

/* The weights of one output channel in a segment, and how many there are. */
static const int8_t *weights_of(const lsnn_synapses *synapses, int32_t segment, int32_t channel, int32_t *count)
{
    const int64_t inputs = row_inputs(synapses);
    const int64_t first = (int64_t)segment * LSNN_SEGMENT_INPUTS;
    *count = (int32_t)(inputs - first < LSNN_SEGMENT_INPUTS ? inputs - first : LSNN_SEGMENT_INPUTS);
    return synapses->codes + channel * inputs + first;
}

static void count_levels(const lsnn_synapses *synapses, int32_t segment, int32_t channel, histogram *found)
{
    const int levels = level_count(synapses);
    int32_t i, count;
    const int8_t *weights = weights_of(synapses, segment, channel, &count);
    memset(found, 0, sizeof *found);
    for (i = 0; i < count; i++)
        if (weights[i] > 0)
            found->positive[level_of(weights[i], levels)]++;
        else if (weights[i] < 0)
            found->negative[level_of(weights[i], levels)]++;
}

static int32_t bits_of(uint64_t value)
{
    int32_t n = 0;
    for (; value; value >>= 1)
        n++;
    return n;
}

/* The largest sum that blocks of these levels can make. */
static uint64_t bound_of(const histogram *found, int levels)
{
    uint64_t bound = 0;
    int level;
    for (level = 0; level < levels; level++)
        bound += (uint64_t)BLOCK * blocks_of(found, level) * magnitude(level, levels);
    return bound;
}

void lsnn_bit_cost(const lsnn_synapses *synapses, int32_t channels, int32_t *planes, uint64_t *blocks)
{
    const int levels = level_count(synapses);
    int32_t segment, channel;
    int level;
    *planes = 0;
    *blocks = 0;
    for (channel = 0; channel < channels; channel++) {
        uint64_t bound = 0;
        for (segment = 0; segment < segment_count(synapses); segment++) {
            histogram found;
            count_levels(synapses, segment, channel, &found);
            bound += bound_of(&found, levels);
            for (level = 0; level < levels; level++)
                *blocks += blocks_of(&found, level);
        }
        if (bits_of(bound) > *planes)
            *planes = bits_of(bound);
    }
}

/* Writes the entries of one channel in a segment, level by level, and what they make the sum too large by. */
static int32_t write_entries(const lsnn_synapses *synapses, int32_t segment, int32_t channel, const histogram *found,
                             uint16_t *entries)
{
    const int levels = level_count(synapses);
    const uint16_t zeros = (uint16_t)(2 * segment_inputs(synapses));
    uint32_t positive[MAX_LEVELS], negative[MAX_LEVELS], at = 0;
    int32_t i, count, excess = 0;
    const int8_t *weights = weights_of(synapses, segment, channel, &count);
    int level;
    for (level = 0; level < levels; level++) {
        const uint32_t plain = found->positive[level], length = BLOCK * blocks_of(found, level);
        uint32_t pad;
        positive[level] = at;
        negative[level] = at + plain;
        for (pad = plain + found->negative[level]; pad < length; pad++)
            entries[at + pad] = zeros;
        excess += (int32_t)(magnitude(level, levels) * found->negative[level]);
        at += length;
    }
    for (i = 0; i < count; i++)
        if (weights[i] > 0)
            entries[positive[level_of(weights[i], levels)]++] = (uint16_t)(2 * i);
        else if (weights[i] < 0)
            entries[negative[level_of(weights[i], levels)]++] = (uint16_t)(2 * i + 1);
    return excess;
}

uint64_t lsnn_bit_table_make(lsnn_bit_table *table, const lsnn_synapses *synapses, int32_t channels)
{
    const int levels = level_count(synapses);
    const int32_t segments = segment_count(synapses);
    const size_t rows = (size_t)segments * (size_t)channels;
    uint16_t *entries, *blocks_at;
    uint32_t *first, at = 0;
    uint64_t *bound;
    uint8_t *used, *used_after;
    int32_t *excess, segment, channel;
    int level;
    memset(table, 0, sizeof *table);
    table->channels = channels;
    table->segments = segments;
    table->levels = levels;
    table->segment_inputs = segment_inputs(synapses);
    lsnn_bit_cost(synapses, channels, &table->planes, &table->blocks);
    /* No block is without a weight, and weights are at most 2^26, so that `first` can hold every entry's index. */
    table->entries = entries = malloc((size_t)(table->blocks * BLOCK + 1) * sizeof *entries);
    table->blocks_at = blocks_at = malloc(rows * (size_t)levels * sizeof *blocks_at);
    table->first = first = malloc(rows * sizeof *first);
    table->used_after = used_after = malloc(rows);
    table->used = used = malloc((size_t)channels);
    table->excess = excess = calloc((size_t)channels, sizeof *excess);
    bound = calloc((size_t)channels, sizeof *bound);
    if (!entries || !blocks_at || !first || !used_after || !used || !excess || !bound) {
        free(bound);
        lsnn_bit_table_free(table);
        return 0;
    }
    for (segment = 0; segment < segments; segment++)
        for (channel = 0; channel < channels; channel++) {
            const size_t row = (size_t)segment * (size_t)channels + (size_t)channel;
            histogram found;
            uint32_t count = 0;
            count_levels(synapses, segment, channel, &found);
            first[row] = at;
            bound[channel] += bound_of(&found, levels);
            used_after[row] = used[channel] = (uint8_t)bits_of(bound[channel]);
            excess[channel] += write_entries(synapses, segment, channel, &found, entries + at);
            for (level = 0; level < levels; level++) {
                blocks_at[row * (size_t)levels + (size_t)level] = (uint16_t)blocks_of(&found, level);
                count += BLOCK * blocks_of(&found, level);
            }
            at += count;
            if (bits_of(count) > table->count_planes)
                table->count_planes = bits_of(count);
        }
    free(bound);
    return table->blocks * BLOCK * sizeof *entries + rows * ((size_t)levels * sizeof *blocks_at + sizeof *first + 1) +
           (size_t)channels * (1 + sizeof *excess);
}

void lsnn_bit_table_free(lsnn_bit_table *table)
{
    free((void *)table->entries);
    free((void *)table->blocks_at);
    free((void *)table->first);
    free((void *)table->used_after);
    free((void *)table->used);
    free((void *)table->excess);
    memset(table, 0, sizeof *table);
}

int8_t *lsnn_rows_make(const lsnn_synapses *synapses, int32_t channels, size_t *stride)
{
    const int64_t inputs = row_inputs(synapses);
    int8_t *rows;
    int64_t i;
    int32_t channel;
    *stride = ((size_t)channels + 63) / 64 * 64;
    rows = calloc((size_t)inputs, *stride);
    if (rows)
        for (channel = 0; channel < channels; channel++)
            for (i = 0; i < inputs; i++)
                rows[(size_t)i * *stride + (size_t)channel] = synapses->codes[channel * inputs + i];
    return rows;
}
