"""Networks that hat.convert is tried on, and what is recorded of each."""
