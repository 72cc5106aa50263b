"""What later work claims about registers and their repairs, one experiment each."""
