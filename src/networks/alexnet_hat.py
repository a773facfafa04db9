"""The AlexNet-like network with gates. 7,140,581 parameters on the mixture."""

from networks import alexnet
from networks.gated import Gated


class Net(Gated):
    plain = alexnet.Net
