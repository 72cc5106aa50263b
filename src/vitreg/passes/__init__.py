"""Passes over images: what every verb shares when it runs a model over photographs."""
