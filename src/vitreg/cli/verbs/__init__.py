"""The command line of each verb: words to options, a call, and where the result is."""
