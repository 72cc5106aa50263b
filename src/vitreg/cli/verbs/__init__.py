"""The command line of each verb: reads its options, calls it, and prints where the result is."""
