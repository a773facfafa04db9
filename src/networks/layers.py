"""Hidden layers: their description, their sizes, and the modules they are built from."""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from networks.dropout import Activation

SMALL = 2**15  # weights; of smaller layers oneDNN's products are not faster
PATCHES = 2**25  # values in all patches of a batch, 128 MiB; of 64 images of 32x32 they are 2**21


class Layer(NamedTuple):
    units: int
    dropout: float
    kernel: int = 0  # side of a convolution's kernel, followed by 2x2 max-pooling; 0: fully connected
    side: int = 0  # of a convolution's input, as far as the last layer depends on it (plan)
    whole: int = 0  # side of its output, without an odd last row and column, which pooling drops (plan)


def plan(layers, shape, factor):
    """Yield (layer, inputs, units), with units times `factor`; after a flatten each unit gives several inputs."""
    channels, size, _ = shape
    needed = sides([layer.kernel for layer in layers if layer.kernel], size)
    for layer in layers:
        units = max(1, int(layer.units * factor))
        if layer.kernel:
            whole = (size - layer.kernel + 1) // 2 * 2
            yield layer._replace(side=needed.pop(0), whole=whole), channels, units
            size = whole // 2
        else:
            yield layer, channels * size * size, units
            size = 1
        channels = units


def sides(kernels, size):
    """Sides of the inputs of convolutions with these kernels, as far as the output of the last one depends on them:
    pooling drops odd rows and columns. Of an image of the AlexNet-like network 27 of 32 rows."""
    for kernel in kernels:
        size = (size - kernel + 1) // 2
    needed = []
    for kernel in reversed(kernels):
        size = 2 * size + kernel - 1
        needed.insert(0, size)
    return needed


class Convolution(nn.Conv2d):
    """Reads only the first `side` rows and columns. On a GPU the weights of the one that reads small images get their
    gradient from matrix products: cuDNN's only deterministic kernel for three channels takes a quarter of a step."""

    def __init__(self, inputs, units, kernel, side):
        super().__init__(inputs, units, kernel)
        self.side = side

    def forward(self, x):
        unused = [self.side - n for n in x.shape[2:]]
        x = F.pad(x, (0, unused[1], 0, unused[0])) if any(unused) else x
        in_single = x.is_cuda and not torch.is_autocast_enabled('cuda')
        if self.training and in_single and not x.requires_grad and x.numel() * self.weight[0, 0].numel() < PATCHES:
            return ImageConvolution.apply(x, self.weight, self.bias)
        return super().forward(x)


class ImageConvolution(Function):
    """F.conv2d(x, w, b) for x (B, channels, height, width) that needs no gradient, w (units, channels, kernel, kernel).
    Its backward pass holds all patches of x."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return F.conv2d(x, w, b)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        grad_w = None
        if ctx.needs_input_grad[1]:
            kernel = w.shape[-1]
            patches = x.unfold(2, kernel, 1).unfold(3, kernel, 1).permute(0, 2, 3, 1, 4, 5)
            patches = patches.flatten(3).flatten(1, 2)  # (B, rows * columns, weights of a unit)
            grad_w = torch.bmm(grad.flatten(2), patches).sum(0).view_as(w)
        return None, grad_w, grad.sum((0, 2, 3)) if ctx.needs_input_grad[2] else None


class Linear(nn.Linear):
    """In training and in inference mode on a CPU by oneDNN's matrix products, which are faster than MKL's."""

    def forward(self, x):
        fast = self.weight.numel() > SMALL and torch.backends.mkldnn.is_available()
        in_single = x.dtype == torch.float32 and not torch.is_autocast_enabled('cpu')
        if fast and x.is_cpu and in_single and (self.training or torch.is_inference_mode_enabled()):
            return Affine.apply(x, self.weight, self.bias)
        return super().forward(x)


class Affine(Function):
    """x w^T + b for x (B, inputs), w (units, inputs), b (units,). `_linear_pointwise(x, w, b)` is the same, by oneDNN,
    without a backward pass."""

    @staticmethod
    def forward(ctx, x, w, b):
        ctx.save_for_backward(x, w)
        return torch.ops.mkldnn._linear_pointwise(x, w, b, 'none', [], '')

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, w = ctx.saved_tensors
        product, rest = torch.ops.mkldnn._linear_pointwise, (None, 'none', [], '')
        grad_x = product(grad, w.t(), *rest) if ctx.needs_input_grad[0] else None
        grad_w = product(grad.t(), x.t(), *rest) if ctx.needs_input_grad[1] else None
        return grad_x, grad_w, grad.sum(0)


def linear(layer, inputs, units):
    """The layer's linear part."""
    return Convolution(inputs, units, layer.kernel, layer.side) if layer.kernel else Linear(inputs, units)


class Block(nn.Sequential):
    """The whole layer. factor: of its activation."""

    def forward(self, x, factor=None):
        *linear, activation = self
        for module in linear:
            x = module(x)
        return activation(x) if factor is None else activation(x, factor)


def block(layer, inputs, units):
    flatten = [] if layer.kernel else [nn.Flatten()]
    return Block(*flatten, linear(layer, inputs, units), activation(layer))


def activation(layer):
    return Activation(layer.dropout, layer.kernel > 0, layer.whole)
