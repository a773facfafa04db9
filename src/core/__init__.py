"""What everything else may use; it imports nothing else of this project."""
