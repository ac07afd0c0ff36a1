"""Models built around stored checkpoints, and the tasks and probe sets that are run through them."""
