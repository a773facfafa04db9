"""The networks: for each family its variants, '' the plain one. Each is built as Net(shape, classes, width) and starts
from the same weights for one seed."""

from itertools import chain

import torch
from torch import nn

from core import seeds
from core.errors import UserError
from networks import external
from networks.alexnet import AlexNet
from networks.gated import GatedAlexNet, GatedMLP
from networks.mlp import MLP
from networks.pathnet import PathNetAlexNet, PathNetMLP
from networks.pnn import Lateral, ProgressiveAlexNet, ProgressiveMLP

NETWORKS = {
    'alexnet': {'': AlexNet, 'hat': GatedAlexNet, 'pathnet': PathNetAlexNet, 'pnn': ProgressiveAlexNet},
    'mlp': {'': MLP, 'hat': GatedMLP, 'pathnet': PathNetMLP, 'pnn': ProgressiveMLP},
}


def build(family, variant, shape, classes, width, seed, name=None, weights=None):
    """A network with its initial weights.

    name     of a network of another library (networks.external); None: that of the family
    family   of the experiment: alexnet or mlp
    variant  of the approach: '' is the plain network
    shape    of an input (channels, height, width)
    classes  number of classes of each task, one head each
    weights  path of its initial weights (networks.pretrained); None: drawn by the seed
    width    multiplies the size of all hidden layers
    """
    if name:
        net = external.build(name, variant, shape, classes, seed, weights)
        initialize(net.heads, seed, 'weights', 'heads')
        return net
    if variant not in NETWORKS[family]:
        raise UserError(f'networks: {family} has no variant {variant!r} in NETWORKS, which this approach needs')
    net = NETWORKS[family][variant](shape, classes, width)
    if not variant:
        check_places(net)
    initialize(net, seed, 'weights')
    return net


def check_places(net):
    """Raises UserError if a plain network has shared parameters or buffers outside its blocks: approaches look nowhere
    else for what they protect."""
    for name, _ in chain(net.named_parameters(), net.named_buffers()):
        if not name.startswith(('blocks.', 'heads.')):
            raise UserError(f'networks: {type(net).__name__}.{name} is not in blocks, where approaches protect it')


def initialize(net, seed, *purpose, gain=1):
    """Xavier uniform weights (times gain), zero biases (HAT, section 4); gates are the approach's to set.

    Each tensor is drawn from a stream of its own name, on the CPU: layers that two networks share start equal in both.
    The paper says Xavier, and nothing of biases. Original: PyTorch's defaults.
    """
    for name, module in net.named_modules():
        generator = seeds.generator(seed, *purpose, name.removeprefix('hidden.net.'))  # of a Gated: the plain layers
        if isinstance(module, (nn.Conv2d, nn.Linear)):
            drawn = nn.init.xavier_uniform_(torch.empty(module.weight.shape), gain, generator)
            nn.init.zeros_(module.bias)
            with torch.no_grad():
                module.weight.copy_(drawn)
        elif isinstance(module, Lateral):
            module.reset_parameters(generator)
