"""Figures of the paper that show photographs and maps of them, one file each."""
