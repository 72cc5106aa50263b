"""Circuits of planted models by which tokens act on one another through attention."""
