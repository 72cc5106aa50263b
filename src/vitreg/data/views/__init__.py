"""From pictures to tensors: what a model sees of a photograph."""
