"""The tasks of `vitreg eval`, one file each."""
