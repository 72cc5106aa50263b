"""The models that a run of `reproduce` trains itself: which, how, what they cost, and differences over their seeds."""
