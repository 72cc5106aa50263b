"""Ground-truth boxes of images."""
