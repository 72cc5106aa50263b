"""Code that the dense tasks share."""
