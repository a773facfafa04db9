"""A plain network with a gate after each hidden layer (HAT, section 2.2)."""

import copy

from torch import nn

from hat import Gate, cut, gated
from networks.dropout import Dropout
from networks.plain import Plain

LINEAR = nn.Conv2d, nn.Linear


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
            layer = next(m for m in block if isinstance(m, LINEAR))
            yield layer.weight, l, l - 1 if l else None
            yield layer.bias, l, None

    def pruned(self, t, masks):
        """Plain layers without gates, cut down to what task t uses: the same outputs in evaluation."""
        modules, a_in = [], None
        for block, a_out in zip(self.blocks, masks, strict=True):
            for module in block.modules():
                if isinstance(module, LINEAR):
                    modules.append(cut(module, a_out, a_in))
                elif not isinstance(module, (nn.Sequential, Dropout)):
                    modules.append(copy.deepcopy(module))
            a_in = a_out
        return nn.Sequential(*modules, cut(self.heads[t], None, a_in)).eval()
