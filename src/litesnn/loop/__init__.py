"""What search and training loops share: constraints, schedules, checkpoints, progress."""
