"""Progressive network of the MLP's layers, for the MNIST experiments (the original code has none)."""

from networks.mlp import LAYERS
from networks.pnn import Columns


class Net(Columns):
    layers = LAYERS
    factor = 1.0  # matches the number of parameters
