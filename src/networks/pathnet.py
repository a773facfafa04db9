"""PathNet's network (Fernando et al. 2017): each layer has many modules, of which a path names the few active ones.

A module is a whole layer, only narrower; the outputs of the active modules are added. One that a path names twice, as
after some mutations, counts once (original: twice).
"""

from torch import nn

from networks import alexnet, mlp
from networks.layers import block, plan

MODULES = 16  # M, in a layer


class Paths(nn.Module):
    """Input (B, *shape) float and a path, for each layer the numbers of its active modules; output (B, classes[t])."""

    layers = ()  # of layers.Layer; a subclass says which
    factor = 1.0  # a module's units over those of the plain network's layer

    def __init__(self, shape, classes, width=1):
        super().__init__()
        planned = list(plan(self.layers, shape, self.factor * width))
        self.module_layers = nn.ModuleList(nn.ModuleList(block(*layer) for _ in range(MODULES)) for layer in planned)
        self.heads = nn.ModuleList(nn.Linear(planned[-1][2], n) for n in classes)

    def forward(self, x, t, path):
        for modules, active in zip(self.module_layers, path, strict=True):
            x = sum(modules[m](x) for m in sorted(set(active)))
        return self.heads[t](x)


class PathNetAlexNet(Paths):
    """7,092,261 parameters on the mixture."""

    layers = alexnet.LAYERS
    factor = 0.258  # matches the number of parameters of the plain network


class PathNetMLP(Paths):
    """For the MNIST experiments the original code has no PathNet."""

    layers = mlp.LAYERS
    factor = 0.147
