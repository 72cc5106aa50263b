"""Contact sheets: pictures in rows and columns, as PNG."""
