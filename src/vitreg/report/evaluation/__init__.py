"""The page of `vitreg eval`, and the table of several models and tasks."""
