"""A file a method: its `METHOD`, what it fits on images, and the edits or weights that follow."""
