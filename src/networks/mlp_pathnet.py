"""PathNet of the MLP's layers, for the MNIST experiments (the original code has none)."""

from networks.mlp import LAYERS
from networks.pathnet import Paths


class Net(Paths):
    layers = LAYERS
    factor = 0.147  # matches the number of parameters
