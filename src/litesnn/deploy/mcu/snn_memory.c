/* The static memory that the runtime's files share: the bottom of them, which uses nothing of the others. */
#include "snn_strict.h"

#include "snn_internal.h"

uint32_t snn_arena[SNN_ARENA_WORDS];
uint32_t snn_row[SNN_ROW_WEIGHTS];
snn_sum snn_sums[SNN_SUMS];
uint16_t snn_events[SNN_EVENT_COUNT];
