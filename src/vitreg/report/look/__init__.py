"""A look as one picture, drawn without matplotlib or torch."""
