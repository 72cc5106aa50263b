"""From sets to batches: the order of samples, workers, and loaders."""
