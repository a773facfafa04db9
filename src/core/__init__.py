"""What all other packages use. It imports nothing else of this project."""
