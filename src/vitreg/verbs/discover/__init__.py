"""`discover`: objects without labels."""
