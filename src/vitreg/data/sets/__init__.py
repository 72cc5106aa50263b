"""What supervises: sets of images with labels, captions, masks or depth."""
