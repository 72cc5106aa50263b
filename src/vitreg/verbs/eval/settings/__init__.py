"""Settings of the tasks of `vitreg eval`, which are also its flags and manual. No torch here."""
