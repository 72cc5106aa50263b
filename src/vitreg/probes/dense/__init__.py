"""Heads that predict a value for every pixel: training, losses and scores."""
