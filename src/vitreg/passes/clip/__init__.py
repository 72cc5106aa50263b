"""CLIP models: the two towers behind one interface, and the sentences that name classes."""
