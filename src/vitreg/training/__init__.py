"""The one training loop and what it needs: optimiser, checkpoints, processes, records."""
