"""The AlexNet-like network with gates. 7,140,581 parameters on the mixture."""

from networks.alexnet import LAYERS
from networks.gated import Gated


class Net(Gated):
    layers = LAYERS
