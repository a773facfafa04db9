"""Hidden layers: their description, their sizes, and the modules they are built from."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from networks.dropout import Activation

LARGE = 2**19  # weights; for smaller layers oneDNN is not faster


class Layer(NamedTuple):
    units: int
    dropout: float
    kernel: int = 0  # side of a convolution's kernel, followed by 2x2 max-pooling; 0: fully connected


def plan(layers, shape, factor):
    """Yield (layer, inputs, units), with units times `factor`; after a flatten each unit gives several inputs."""
    channels, size, _ = shape
    for layer in layers:
        units = max(1, int(layer.units * factor))
        if layer.kernel:
            yield layer, channels, units
            size = (size - layer.kernel + 1) // 2
        else:
            yield layer, channels * size * size, units
            size = 1
        channels = units


class Convolution(nn.Conv2d):
    """Does not compute the last row and column of its output if 2x2 max-pooling would drop them."""

    def forward(self, x):
        odd = [(size - kernel + 1) % 2 for size, kernel in zip(x.shape[2:], self.kernel_size, strict=True)]
        return super().forward(F.pad(x, (0, -odd[1], 0, -odd[0])) if any(odd) else x)


class Linear(nn.Linear):
    """A large layer trains on a CPU with oneDNN's matrix products, as torch.utils.mkldnn does: for small batches they
    are faster than MKL's."""

    def forward(self, x):
        large = self.weight.numel() > LARGE and torch.backends.mkldnn.is_available()
        if not (large and self.training and x.is_cpu and x.dtype == torch.float32):
            return super().forward(x)
        return torch._C._nn.mkldnn_linear(x.to_mkldnn(), self.weight, self.bias).to_dense()


def linear(layer, inputs, units):
    """The layer's linear part."""
    return Convolution(inputs, units, layer.kernel) if layer.kernel else Linear(inputs, units)


def block(layer, inputs, units):
    """The whole layer."""
    flatten = [] if layer.kernel else [nn.Flatten()]
    return nn.Sequential(*flatten, linear(layer, inputs, units), activation(layer))


def activation(layer):
    return Activation(layer.dropout, pool=layer.kernel > 0)
