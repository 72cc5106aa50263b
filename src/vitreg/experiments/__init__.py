"""The figures and tables of the paper, one experiment each, built from the verbs."""
