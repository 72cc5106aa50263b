"""Finding objects without labels: one box for an image, from its patch features alone."""
