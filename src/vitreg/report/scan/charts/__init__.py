"""One file for each figure of a scan: `svg` draws it for the page, `figure` for a paper."""
