"""`train`: from a configuration to a trained backbone."""
