"""What must be known about a Vision Transformer of each library: one builder a file."""
