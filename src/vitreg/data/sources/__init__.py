"""From bytes to pictures: where images lie, and how they are read."""
