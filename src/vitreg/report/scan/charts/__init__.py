"""One file for each figure of a scan: `svg` for the page and `figure` for a paper draw the same thing."""
