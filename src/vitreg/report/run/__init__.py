"""The page and the figures of training runs."""
