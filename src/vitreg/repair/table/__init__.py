"""The table of repairs: the rows of a model, its controls, and the numbers of a row."""
