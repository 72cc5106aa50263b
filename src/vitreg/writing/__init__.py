"""Writing into a folder of results: as a whole or not at all, and only over what vitreg can prove it wrote."""
