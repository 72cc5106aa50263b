"""The page of `vitreg demo`: pairs of models in acts."""
