"""Progressive network of the AlexNet-like network's layers. 7,160,706 parameters on the mixture."""

from networks.alexnet import LAYERS
from networks.pnn import Columns


class Net(Columns):
    layers = LAYERS
    factor = 1.117  # matches the number of parameters
