"""Outliers of a single image: found, filled from their neighbours, hidden from attention."""
