"""A plain network with a gate after each hidden layer (HAT, section 2.2)."""

from torch import nn

from hat import Gate, gated
from networks.plain import Plain


class Gated(Plain):
    def __init__(self, shape, classes, width=1):
        super().__init__(shape, classes, width)
        self.gates = nn.ModuleList(Gate(n, len(classes)) for n in self.units)

    def masks(self, t, s):
        """Attention of task t in each hidden layer at scale s, a list of (units,)."""
        return [gate(t, s) for gate in self.gates]

    def features(self, x, masks):
        x = self.drop(x)
        for block, a in zip(self.blocks, masks, strict=True):
            x = gated(block(x), a)
        return x

    def forward(self, x, t, masks):
        return self.heads[t](self.features(x, masks))

    def shared_weights(self):
        """Yield (parameter, l, l_in): what all tasks share, the layer it belongs to and the layer it reads.

        l_in is None for the first layer, which reads the input data, and for biases. Heads belong to one task each.
        """
        for l, block in enumerate(self.blocks):
            layer = next(m for m in block if isinstance(m, (nn.Conv2d, nn.Linear)))
            yield layer.weight, l, l - 1 if l else None
            yield layer.bias, l, None
