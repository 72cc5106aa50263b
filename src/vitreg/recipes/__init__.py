"""Training recipes: what is learned from what, one final module each."""
