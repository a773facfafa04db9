"""Cutting a layer down to the units that a task uses (section 4.4)."""

import torch
from torch import nn

UNUSED = 1e-8  # attention up to this changes nothing that float32 can hold beside a unit in use


@torch.no_grad()
def cut(layer, a_out=None, a_in=None):
    """A smaller copy of a Conv2d or Linear, which reads and has only the units in use. Raises TypeError.

    a_out   attention to the layer's own units, (N_out,); None: all are kept, as in a head. Which units are left is all
            that it says: their gates stand in the weights of the layer that reads them
    a_in    attention to the units it reads, (N_in,), or one for several inputs after a flatten; None for the input data
    """
    convolution = isinstance(layer, nn.Conv2d) and layer.groups == 1
    if not (convolution or isinstance(layer, nn.Linear)) or layer.bias is None:
        raise TypeError(f'{layer} cannot be cut: neither a Linear nor a Conv2d of one group, with bias')
    weight, bias = layer.weight, layer.bias
    if a_in is not None:
        a_in = a_in.repeat_interleave(weight.shape[1] // len(a_in))
        kept = used(a_in)
        weight = weight[:, kept] * a_in[kept].view(1, -1, *[1] * (weight.ndim - 2))
    if a_out is not None:
        kept = used(a_out)
        weight, bias = weight[kept], bias[kept]
    form = {}
    if convolution:
        names = 'kernel_size', 'stride', 'padding', 'dilation', 'padding_mode'
        form = {name: getattr(layer, name) for name in names}
    small = (nn.Conv2d if convolution else nn.Linear)(weight.shape[1], weight.shape[0], **form, device=weight.device)
    small.weight.copy_(weight)
    small.bias.copy_(bias)
    return small


def used(a):
    """The units that are left, (N,) bool: at least one, as no layer can be empty."""
    kept = a > UNUSED
    kept[a.argmax()] = True
    return kept
