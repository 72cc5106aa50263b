"""`maps`: attention, principal components and norms on contact sheets."""
