"""The columns of the table of repairs: a file an idea, one pass over the held-out images, intervals over images."""
