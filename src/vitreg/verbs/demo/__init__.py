"""`demo`: planted artifacts and their clean twin, side by side."""
