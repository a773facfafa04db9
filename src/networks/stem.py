"""A first layer for small images (He et al. 2016, section 4.2): a 3x3 convolution without stride, no pooling."""

from torch import nn

from core.errors import UserError

PLAIN = 'Conv2d', 'Conv2dSame'  # not, for one, those of standardized weights
POOLING = nn.MaxPool2d, nn.AvgPool2d


def shrink(net, name):
    """Replace the stem of a network, in place. Returns the name of the new convolution. Raises UserError."""
    modules = [(key, m) for key, m in net.named_modules() if isinstance(m, (nn.Conv2d, *POOLING))]
    if not modules or type(old := modules[0][1]).__name__ not in PLAIN or max(old.stride) == 1:
        raise UserError(f'--network: {name} does not start with a plain convolution with a stride, as stem=small needs')
    first, new = modules[0][0], nn.Conv2d(old.in_channels, old.out_channels, 3, 1, 1, bias=old.bias is not None)
    net.set_submodule(first, new)
    if len(modules) > 1 and isinstance(modules[1][1], POOLING):
        net.set_submodule(modules[1][0], nn.Identity())
    return first
