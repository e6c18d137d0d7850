"""The common parts of search and training loops: constraints, schedules, checkpoints, progress."""
