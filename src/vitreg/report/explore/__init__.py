"""The explorer: documents of one photo by one model, and the page on which people point at patches."""
