"""The networks, by name. Each is built as Net(shape, classes, width) and starts from the same weights for one seed."""

from torch import nn

import hat
import seeds
from networks import alexnet, alexnet_hat

NETWORKS = {
    'alexnet': alexnet.Net,
    'alexnet_hat': alexnet_hat.Net,
}


def build(name, shape, classes, width, seed):
    """A network with its initial weights.

    shape    of an input (channels, height, width)
    classes  number of classes of each task, one head each
    width    multiplies the size of all hidden layers
    """
    net = NETWORKS[name](shape, classes, width)
    initialize(net, seed)
    return net


def initialize(net, seed):
    """Xavier uniform weights, zero biases, N(0, 1) embeddings (paper, section 4).

    Each tensor is drawn from a stream of its own name: layers that two networks share start equal in both.
    Original: PyTorch's defaults, although the paper says Xavier.
    """
    for name, module in net.named_modules():
        generator = seeds.generator(seed, 'weights', name)
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            nn.init.xavier_uniform_(module.weight, generator=generator)
            nn.init.zeros_(module.bias)
        elif isinstance(module, hat.Gate):
            module.reset_parameters(generator)
