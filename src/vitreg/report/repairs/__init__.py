"""The page of `vitreg repairs`: the table with gains beside damages, and maps before and after."""
