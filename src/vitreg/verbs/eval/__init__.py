"""`eval`: measures the quality of features, one task at a time."""
