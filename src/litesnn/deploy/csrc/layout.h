/* Where everything lies while a batch is run: what is not needed at the same time shares its place.
 *
 * Step p computes population p, after the groups that it is the first to need; the last step is the readout.
 */
#ifndef LSNN_LAYOUT_H
#define LSNN_LAYOUT_H

#include "plan.h"

/* Where the maps of a batch lie, from the start of a block of memory that all batches share. */
typedef struct {
    int32_t batch;
    size_t bytes;     /* of the block */
    size_t *spikes;   /* [populations] first plane */
    size_t *results;  /* [bundles] planes or sums; of an identity none */
    size_t *copies;   /* [groups] strided planes, spikes by pixel, or shifted pixels */
    size_t *masks;    /* [groups] */
    size_t input;     /* int8 [frames, batch, C, H, W] */
} lsnn_layout;

/* Returns an lsnn_status: LSNN_NO_MEMORY also where a batch would take more than 4 GiB. */
int lsnn_layout_make(lsnn_layout *layout, const lsnn_plan *plan, int32_t batch);
void lsnn_layout_free(lsnn_layout *layout);

#endif
