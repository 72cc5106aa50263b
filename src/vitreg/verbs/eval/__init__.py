"""`eval`: what features are good for, one task at a time."""
