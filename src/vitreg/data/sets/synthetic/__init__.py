"""Sets of images that are drawn from a seed, `synthetic:scenes`: every truth about them is known."""
