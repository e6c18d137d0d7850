#include "layout.h"

#include <stdlib.h>
#include <string.h>

#include "litesnn.h"

/* Something that lies in the block from one step to another, both included. */
typedef struct {
    uint64_t bytes, guard; /* guard: bytes before and after, which may be read but mean nothing */
    uint64_t start;
    int32_t first, last;
    size_t *at;
} place;

typedef struct {
    place *places;
    int32_t count;
} places;

static void request(places *all, size_t *at, uint64_t bytes, uint64_t guard, int32_t first, int32_t last)
{
    place *made = &all->places[all->count++];
    if (bytes > LSNN_MAX_WORK)
        bytes = LSNN_MAX_WORK; /* too much already, and so little that no sum overflows */
    made->bytes = lsnn_round_up(bytes) + 2 * lsnn_round_up(guard);
    made->guard = lsnn_round_up(guard);
    made->first = first;
    made->last = last;
    made->at = at;
}

static int larger_first(const void *a, const void *b)
{
    const place *x = a, *y = b;
    if (x->bytes != y->bytes)
        return x->bytes > y->bytes ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

static int by_start(const void *a, const void *b)
{
    const place *x = *(const place *const *)a, *y = *(const place *const *)b;
    return x->start < y->start ? -1 : x->start > y->start;
}

/* Puts every place, the larger ones first, at the lowest address where it meets no other of its time. */
static int arrange(places *all, uint64_t *bytes)
{
    const place **together = malloc(((size_t)all->count + 1) * sizeof *together);
    int32_t i, j, n;
    if (!together)
        return LSNN_NO_MEMORY;
    *bytes = 0;
    qsort(all->places, (size_t)all->count, sizeof *all->places, larger_first);
    for (i = 0; i < all->count; i++) {
        place *mine = &all->places[i];
        for (n = 0, j = 0; j < i; j++)
            if (all->places[j].first <= mine->last && mine->first <= all->places[j].last)
                together[n++] = &all->places[j];
        qsort(together, (size_t)n, sizeof *together, by_start);
        for (j = 0; j < n && mine->start + mine->bytes > together[j]->start; j++)
            if (mine->start < together[j]->start + together[j]->bytes)
                mine->start = together[j]->start + together[j]->bytes;
        *mine->at = (size_t)(mine->start + mine->guard);
        if (*bytes < mine->start + mine->bytes)
            *bytes = mine->start + mine->bytes;
    }
    free(together);
    return LSNN_OK;
}

/* How far a tap may look beyond a plane's ends, in bytes. */
static uint64_t reach_of(int32_t kernel, int32_t width)
{
    return (uint64_t)(kernel / 2) * ((uint64_t)width + 1) / 8 + LSNN_TILE + 16;
}

static void request_groups(places *all, lsnn_layout *layout, const lsnn_plan *plan)
{
    const lsnn_model *model = plan->model;
    const uint64_t batch = (uint64_t)layout->batch;
    int32_t g, m;
    for (g = 0; g < plan->group_count; g++) {
        const lsnn_group_plan *group = &plan->groups[g];
        const uint64_t plane = lsnn_plane_bytes(model, layout->batch, group->out_height, group->out_width);
        const uint64_t pixels = batch * lsnn_image_bytes(group->out_height, group->out_width) * 8;
        const uint64_t area = (uint64_t)group->height * (uint64_t)group->width;
        const uint64_t inputs = (uint64_t)group->inputs, taps = (uint64_t)group->taps;
        const uint64_t phases = (uint64_t)lsnn_phases(group) * (uint64_t)lsnn_phases(group);
        const uint64_t steps = (uint64_t)(group->method == LSNN_ANALOG ? lsnn_frames(model) : lsnn_binary_steps(model));
        if (group->method == LSNN_ANALOG)
            request(all, &layout->copies[g], inputs * taps * pixels, 0, group->step, group->step);
        else if (group->method == LSNN_GATHER)
            request(all, &layout->copies[g], steps * batch * area * ((inputs + 63) / 64) * 8, 0, group->step,
                    group->step);
        else {
            /* Masks are made with the layout and stay. */
            request(all, &layout->masks[g], taps * plane, 0, 0, model->population_count);
            if (group->stride > 1)
                request(all, &layout->copies[g], inputs * phases * plane, reach_of(group->kernel, group->out_width),
                        group->step, group->step);
        }
        for (m = 0; m < group->member_count; m++) {
            const int32_t index = group->members[m];
            const lsnn_bundle_plan *bundle = &plan->bundles[index];
            const uint64_t channels = (uint64_t)model->populations[bundle->population].channels;
            const uint64_t bytes = group->method == LSNN_BITSLICED
                                       ? channels * (uint64_t)bundle->table.planes * plane
                                       : channels * steps * pixels * sizeof(int32_t);
            request(all, &layout->results[index], bytes, 0, group->step, bundle->population);
        }
    }
}

static void request_populations(places *all, lsnn_layout *layout, const lsnn_plan *plan)
{
    const lsnn_model *model = plan->model;
    int32_t p, g, kernel = 1, last = 0;
    for (g = 0; g < plan->group_count; g++) {
        if (plan->groups[g].kernel > kernel)
            kernel = plan->groups[g].kernel;
        if (plan->groups[g].method == LSNN_ANALOG && plan->groups[g].step > last)
            last = plan->groups[g].step;
    }
    for (p = 0; p < model->population_count; p++) {
        const lsnn_population *made = &model->populations[p];
        const uint64_t plane = lsnn_plane_bytes(model, layout->batch, made->height, made->width);
        request(all, &layout->spikes[p], (uint64_t)made->channels * plane, reach_of(kernel, made->width), p,
                plan->last_use[p]);
    }
    request(all, &layout->input,
            (uint64_t)lsnn_frames(model) * (uint64_t)layout->batch * (uint64_t)model->channels *
                (uint64_t)model->height * (uint64_t)model->width,
            0, 0, last);
}

int lsnn_layout_make(lsnn_layout *layout, const lsnn_plan *plan, int32_t batch)
{
    const size_t populations = (size_t)plan->model->population_count;
    const size_t bundles = (size_t)plan->bundle_count, groups = (size_t)plan->group_count;
    places all;
    uint64_t bytes = 0;
    int status = LSNN_NO_MEMORY;
    memset(layout, 0, sizeof *layout);
    layout->batch = batch;
    layout->spikes = calloc(populations, sizeof *layout->spikes);
    layout->results = calloc(bundles, sizeof *layout->results);
    layout->copies = calloc(groups + 1, sizeof *layout->copies);
    layout->masks = calloc(groups + 1, sizeof *layout->masks);
    all.count = 0;
    all.places = calloc(populations + bundles + 2 * groups + 1, sizeof *all.places);
    if (layout->spikes && layout->results && layout->copies && layout->masks && all.places) {
        request_populations(&all, layout, plan);
        request_groups(&all, layout, plan);
        status = arrange(&all, &bytes);
    }
    free(all.places);
    if (status == LSNN_OK && bytes >= LSNN_MAX_WORK)
        status = LSNN_NO_MEMORY;
    layout->bytes = (size_t)bytes;
    if (status != LSNN_OK)
        lsnn_layout_free(layout);
    return status;
}

void lsnn_layout_free(lsnn_layout *layout)
{
    free(layout->spikes);
    free(layout->results);
    free(layout->copies);
    free(layout->masks);
    memset(layout, 0, sizeof *layout);
}
