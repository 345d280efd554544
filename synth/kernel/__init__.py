"""What all compiled code rests on: the jit switch and counter-based random numbers."""
