"""MLP neurons that write outliers: how they are ranked, and which of them a repair changes."""
