"""What the dense tasks share."""
