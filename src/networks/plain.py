"""Hidden layers one after the other, and a linear head for each task."""

from torch import nn

from networks import layers
from networks.dropout import Dropout, gates


class Plain(nn.Module):
    """Input (B, *shape) float, output (B, classes[t]) logits of task t; without a task, the last hidden layer's."""

    layers = ()  # of networks.layers.Layer; a subclass says which
    input_dropout = 0.0

    def __init__(self, shape, classes, width=1):
        """classes: number of classes of each task. width: all hidden layers are that much wider."""
        super().__init__()
        planned = list(layers.plan(self.layers, shape, width))
        self.units = [units for _, _, units in planned]
        self.drop = Dropout(self.input_dropout)
        self.blocks = nn.ModuleList(layers.block(*layer) for layer in planned)
        self.heads = nn.ModuleList(nn.Linear(self.units[-1], n) for n in classes)

    def features(self, x, masks=None):
        """Output of the last hidden layer, (B, units[-1]). masks: attention to the units of each layer, (units,)."""
        factors = [None] * len(self.blocks) if masks is None else gates([block[-1] for block in self.blocks], masks)
        x = self.drop(x)
        for block, factor in zip(self.blocks, factors, strict=True):
            x = block(x, factor)
        return x

    def forward(self, x, t=None):
        features = self.features(x)
        return features if t is None else self.heads[t](features)
