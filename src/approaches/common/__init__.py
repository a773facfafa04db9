"""What approaches share: the training step, the numbers of the protocol, and parts of several methods."""
