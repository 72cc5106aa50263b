"""Training recipes: each is one final module with its loss."""
