"""Running a model over photographs: what every verb shares."""
