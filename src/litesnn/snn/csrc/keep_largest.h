/* The masks of pruning: which weights of a layer have the largest scores. */
#ifndef LSNN_KEEP_LARGEST_H
#define LSNN_KEEP_LARGEST_H

#include "training.h"

/* mask = 1 where |scores| is among the `kept` (1 to `weights`) largest of its layer, else 0; both [layers, weights]. Of
 * equal scores the first ones stay. NaN is larger than all else. */
LSNN_API void lsnn_keep_largest(void *team, int64_t layers, int64_t weights, int64_t kept, const float *scores,
                                float *mask);

#endif
