"""What one run has besides its training: identity, checkpoints, progress, TensorBoard, its saved network."""
