"""`demo`: a model with planted artifacts and its clean twin, side by side."""
