"""`repairs`: several repairs of several models on the same images."""
