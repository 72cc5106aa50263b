"""`train`: trains a backbone from a configuration."""
