"""The verbs of the command line; their functions are also the Python interface."""
