"""`zoo`: many models scanned on the same images, on one board."""
