"""`demo`: pairs of models with and without artifacts, in acts."""
