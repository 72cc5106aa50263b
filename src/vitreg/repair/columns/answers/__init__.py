"""What a model says of the class of an image: its own classifier, and the nearest sentence."""
