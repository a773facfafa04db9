"""What one run has besides its training: identity, checkpoints, TensorBoard."""
