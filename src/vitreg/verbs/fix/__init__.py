"""`vitreg fix`."""
