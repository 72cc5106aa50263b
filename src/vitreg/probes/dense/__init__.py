"""Heads that predict a value for every pixel: their fit, losses and scores."""
