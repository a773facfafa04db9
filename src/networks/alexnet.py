"""The AlexNet-like network: three convolutions, two fully-connected layers (HAT, section 4, "Network")."""

from networks.layers import Layer
from networks.plain import Plain

LAYERS = Layer(64, 0.2, 4), Layer(128, 0.2, 3), Layer(256, 0.5, 2), Layer(2048, 0.5), Layer(2048, 0.5)


class AlexNet(Plain):
    """7,104,229 parameters on the mixture."""

    layers = LAYERS
