"""Weights of any library, from a file or from memory, into a model of any library."""
