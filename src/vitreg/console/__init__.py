"""The terminal: exit codes, standard streams, Ctrl-C. No torch here."""
