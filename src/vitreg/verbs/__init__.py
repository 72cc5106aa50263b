"""What each verb of the command line does; the same functions are the Python interface."""
