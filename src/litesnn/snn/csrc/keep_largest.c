/* Selection by the digits of a number: a float without its sign is in the order of its bits as an integer.
 *
 * The digits of the smallest score that stays are found from the highest on, by counting how many scores have each digit
 * among those that have the digits found so far.
 */
#include "keep_largest.h"

#include <string.h>

#include "team.h"

enum { DIGITS = 3, LARGEST_DIGIT = 1 << 11 };

static const int SHIFTS[DIGITS + 1] = {31, 20, 10, 0}; /* the n-th digit lies between the n-th and the next */

typedef struct {
    int64_t layers, weights, kept;
    const float *scores;
    float *mask;
} job;

static uint32_t magnitude(float score)
{
    uint32_t bits;
    memcpy(&bits, &score, sizeof bits);
    return bits & 0x7fffffff;
}

/* The kept-th largest magnitude; `dropped`: how many of those that are equal to it do not stay. */
static uint32_t smallest_kept(const float *scores, int64_t weights, int64_t kept, int64_t *dropped)
{
    uint32_t found = 0;
    int n;
    for (n = 0; n < DIGITS; n++) {
        const int above = SHIFTS[n], shift = SHIFTS[n + 1];
        const uint32_t digits = (uint32_t)1 << (above - shift);
        int64_t counts[LARGEST_DIGIT] = {0}, i;
        uint32_t digit = digits - 1;
        for (i = 0; i < weights; i++) {
            const uint32_t score = magnitude(scores[i]);
            if (score >> above == found)
                counts[(score >> shift) & (digits - 1)]++;
        }
        for (; counts[digit] < kept; digit--)
            kept -= counts[digit];
        *dropped = counts[digit] - kept;
        found = found << (above - shift) | digit;
    }
    return found;
}

static void keep_in_layer(const float *scores, int64_t weights, int64_t kept, float *mask)
{
    int64_t dropped, i;
    const uint32_t smallest = smallest_kept(scores, weights, kept, &dropped);
    for (i = 0; i < weights; i++)
        mask[i] = magnitude(scores[i]) >= smallest;
    for (i = weights - 1; dropped; i--) /* the last of those that are equal */
        if (magnitude(scores[i]) == smallest) {
            mask[i] = 0;
            dropped--;
        }
}

static void keep_task(void *context, int32_t worker, int32_t workers)
{
    const job *all = context;
    int64_t first, last;
    lsnn_share(all->layers, worker, workers, &first, &last);
    for (; first < last; first++)
        keep_in_layer(all->scores + first * all->weights, all->weights, all->kept, all->mask + first * all->weights);
}

void lsnn_keep_largest(void *team, int64_t layers, int64_t weights, int64_t kept, const float *scores, float *mask)
{
    job all;
    all.layers = layers;
    all.weights = weights;
    all.kept = kept;
    all.scores = scores;
    all.mask = mask;
    lsnn_team_run(team, layers * weights * DIGITS, keep_task, &all);
}
