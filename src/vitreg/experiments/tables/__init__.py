"""Tables of the paper, one file each."""
