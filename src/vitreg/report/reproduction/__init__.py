"""The page of a reproduction: claim, paper, ours, figure."""
