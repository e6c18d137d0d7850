/* How a model is run: which method computes each bundle, with which tables, and what is computed together.
 *
 * Populations are computed in their order, each for all timesteps. Bundles with the same inputs, kernel, stride and
 * method are a group, computed together, just before the first population that needs one of them.
 *
 * H, W height and width of a group's inputs, in pixels.
 */
#ifndef LSNN_PLAN_H
#define LSNN_PLAN_H

#include "kernel.h"

#define LSNN_MAX_BATCH 8 /* inputs that are run together */
#define LSNN_MAX_WORK ((uint64_t)1 << 32) /* bytes of working memory */

typedef struct {
    int32_t method;     /* enum lsnn_method */
    int32_t population; /* the one that the current is for */
    int32_t group;      /* -1: an identity, which is not computed */
    const lsnn_synapses *synapses;
    lsnn_bit_table table; /* bit-sliced */
    int8_t *rows;         /* gather: [inputs * taps][row_stride] */
    size_t row_stride;
    uint64_t weight_bytes, additions, words;
} lsnn_bundle_plan;

typedef struct {
    int32_t method, kernel, stride, taps, inputs;
    int32_t source_count;
    const int32_t *sources;
    int32_t height, width, out_height, out_width;
    int32_t step;              /* the population before whose fire it is computed */
    int32_t *members;          /* bundles */
    int32_t member_count;
    int32_t segments, segment_inputs; /* of the shifted copies */
} lsnn_group_plan;

typedef struct {
    const lsnn_model *model;
    int32_t bundle_count, group_count;
    lsnn_bundle_plan *bundles; /* in the order of the model */
    lsnn_group_plan *groups;
    int32_t *first_bundle;     /* [populations + 1] */
    int32_t *last_use;         /* [populations]: the last population that reads the spikes; or their number: readout */
    int32_t *members;          /* of all groups */
    size_t tile_bytes;         /* shifted copies of a tile, for the group that has most */
    int32_t most_inputs;       /* of a group */
    uint64_t weight_bytes;
} lsnn_plan;

/* Chooses a method for every bundle (method -1) or takes the one that is given, and makes the tables. The codes that
 * are not needed any more are freed. Returns an lsnn_status; on failure the plan is empty. */
int lsnn_plan_make(lsnn_plan *plan, lsnn_model *model, const lsnn_kernel_ops *ops, int32_t method);
void lsnn_plan_free(lsnn_plan *plan);

static inline size_t lsnn_image_bytes(int32_t height, int32_t width)
{
    return ((size_t)height * (size_t)width + 7) / 8;
}

static inline size_t lsnn_round_up(size_t bytes) { return (bytes + LSNN_TILE - 1) / LSNN_TILE * LSNN_TILE; }

/* Bytes from one plane of spikes to the next: all binary steps of a batch. */
static inline size_t lsnn_plane_bytes(const lsnn_model *model, int32_t batch, int32_t height, int32_t width)
{
    return lsnn_round_up((size_t)lsnn_binary_steps(model) * (size_t)batch * lsnn_image_bytes(height, width));
}

/* A stride of s cuts a map into s * s phases, which have the size of the output: phase (a, b) holds the pixels
 * (s * y + a, s * x + b). A kernel that is smaller than its stride reads only some, each by one of its taps. */
static inline int32_t lsnn_phases(const lsnn_group_plan *group) /* of rows, or of columns */
{
    return group->kernel < group->stride ? group->kernel : group->stride;
}

/* What a row or column of a kernel reads: where its phase lies among those that are kept, and how far on. */
typedef struct {
    int32_t slot, phase, shift;
} lsnn_tap;

static inline lsnn_tap lsnn_tap_of(const lsnn_group_plan *group, int32_t position)
{
    const int32_t offset = position - group->kernel / 2;
    lsnn_tap tap;
    tap.shift = offset >= 0 ? offset / group->stride : -((group->stride - 1 - offset) / group->stride);
    tap.phase = offset - tap.shift * group->stride;
    tap.slot = group->kernel < group->stride ? position : tap.phase;
    return tap;
}

#endif
