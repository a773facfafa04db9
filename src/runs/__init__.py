"""What belongs to one run, whichever command starts it."""
