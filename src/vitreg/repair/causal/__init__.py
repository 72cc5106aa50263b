"""Cause, not correlation: what a model returns once its sinks are changed, beside as many random patches changed so."""
