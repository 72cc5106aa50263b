"""Artifacts born on a laptop: small ViTs trained without and with registers, beside each other, and what becomes of them."""
