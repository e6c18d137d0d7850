/* The event kernel: for each spike of an input plane, the weights of that plane are added where the spike is seen.
 *
 * Output-stationary: the sums of one output channel stay in RAM while all of its weights pass. Work grows with the
 * firing rate.
 */
#include "snn_strict.h"

#include <string.h>

#include "snn_internal.h"

#if SNN_WITH_EVENTS

/* The index of the lowest one of a word that is not 0. */
static uint32_t lowest_one(uint32_t word) {
    static const uint8_t index[32] = {0,  1,  28, 2,  29, 14, 24, 3, 30, 22, 20, 15, 25, 17, 4,  8,
                                      31, 27, 13, 23, 21, 19, 16, 7, 26, 12, 18, 6,  11, 5,  10, 9};
    return index[(word & (0u - word)) * 0x077CB531u >> 27]; /* de Bruijn sequence: few small cores count zeros */
}

/* The lanes of all spikes of a plane into snn_events; how many they are. */
static uint32_t list_spikes(const uint32_t *plane, uint32_t words) {
    uint32_t count = 0;
    uint32_t i;
    for (i = 0; i < words; i++) {
        uint32_t word = plane[i];
        while (word) {
            snn_events[count++] = (uint16_t)(32u * i + lowest_one(word));
            word &= word - 1;
        }
    }
    return count;
}

void snn_events_row(const snn_bundle *bundle, uint32_t count, uint32_t margin) {
    const uint8_t *source = bundle->maps;
    const snn_map *map = &snn_network.maps[*source];
    uint32_t words = snn_network.grids[map->grid].words;
    uint32_t first_channel = 0;
    uint32_t listed = UINT32_MAX; /* the plane whose spikes are in snn_events */
    uint32_t spikes = 0;
    uint32_t i, k;
    memset(snn_sums, 0, (2 * margin + 32u * words) * sizeof snn_sums[0]);
    for (i = 0; i < count; i++) {
        uint32_t channel = SNN_CHANNEL(snn_row[i]);
        const snn_tap *tap = &bundle->taps[SNN_TAP(snn_row[i])];
        int32_t code = SNN_CODE(snn_row[i]);
        uint32_t plane = channel * map->planes + tap->plane;
        snn_sum *sums = &snn_sums[(int32_t)margin - tap->offset];
        if (plane != listed) {
            while (channel >= first_channel + map->channels) {
                first_channel += map->channels;
                map = &snn_network.maps[*++source];
            }
            listed = plane;
            plane -= first_channel * map->planes;
            spikes = list_spikes(&snn_arena[map->first + plane * words], words);
        }
        for (k = 0; k < spikes; k++) {
            snn_sum *sum = &sums[snn_events[k]];
            *sum = (snn_sum)(*sum + code);
        }
    }
}

#endif
