"""The networks of the MNIST experiments, as published: three fully-connected layers for all approaches but HAT, which
has two wider ones (the original code)."""

from networks.layers import Layer
from networks.plain import Plain

LAYERS = (Layer(800, 0.5),) * 3


class MLP(Plain):
    """1,917,610 parameters on mnist2, 1,989,700 on pmnist."""

    layers = LAYERS


class WideMLP(Plain):
    layers = (Layer(2000, 0.5),) * 2
    input_dropout = 0.2
