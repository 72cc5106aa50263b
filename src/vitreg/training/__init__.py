"""The training loop: optimiser, checkpoints, processes, records."""
