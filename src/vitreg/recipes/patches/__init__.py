"""Recipes that are judged patch by patch."""
