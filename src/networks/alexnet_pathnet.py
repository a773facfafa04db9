"""PathNet of the AlexNet-like network's layers. 7,092,261 parameters on the mixture."""

from networks.alexnet import LAYERS
from networks.pathnet import Paths


class Net(Paths):
    layers = LAYERS
    factor = 0.258  # matches the number of parameters
