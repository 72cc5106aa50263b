"""Writing into result folders: completely or not at all, and only over files that vitreg provably wrote."""
