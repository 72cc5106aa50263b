"""Pictures in rows and columns, as PNG."""
