"""The live explorer: a server on this machine that measures the photos which somebody drops on the page."""
