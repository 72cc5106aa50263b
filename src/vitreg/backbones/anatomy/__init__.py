"""The anatomy of each library's Vision Transformers: one builder per file."""
