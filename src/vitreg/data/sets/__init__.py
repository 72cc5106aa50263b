"""Sets of images with labels, captions, masks or depth."""
