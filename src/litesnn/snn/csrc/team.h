/* Workers that share the tasks of training: what lsnn_training_start gives. */
#ifndef LSNN_TEAM_H
#define LSNN_TEAM_H

#include <stdint.h>

#include "threads.h"

/* How many workers a team of lsnn_training_start has at most. */
int32_t lsnn_team_workers(const void *team);

/* Runs a task on all workers, or on the caller alone if there is little to do: few `elements` that each take about as
 * long as a number that is read and written. Returns how many took part. */
int32_t lsnn_team_run(void *team, int64_t elements, lsnn_task *task, void *context);

#endif
