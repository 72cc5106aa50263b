"""`export`: a trained run as a model of another library."""
