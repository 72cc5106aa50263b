"""Repairs of a model that exists: fit on images, saved as a folder, applied as edits or as new weights."""
