"""Verbs that are made of other verbs."""
