"""A plain network with a gate after each hidden layer (HAT, section 2.2)."""

import torch
from torch import nn

import hat
from hat.pruning import remove_zero_channels
from networks.alexnet import AlexNet
from networks.mlp import WideMLP


class Gated(nn.Module):
    """Input (B, *shape) float and the masks of a task, output (B, classes[t]) logits of task t."""

    plain = None  # the networks.plain.Plain of these hidden layers; a subclass says which

    def __init__(self, shape, classes, width=1):
        super().__init__()
        hidden, example = self.plain(shape, (), width), torch.zeros(2, *shape)
        self.units = hidden.units
        self.hidden = hat.convert(hidden, len(classes), example, gates=lambda layer: True, heads=False)
        self.heads = nn.ModuleList(nn.Linear(self.units[-1], n) for n in classes)

    def forward(self, x, t, masks):
        return self.heads[t](self.hidden.run((x,), t, masks))

    def pruned(self, t):
        """The plain network of task t, cut down to what the task uses: the same outputs in evaluation."""
        return remove_zero_channels(nn.Sequential(hat.plain(self.hidden, t), self.heads[t]), self.hidden.plan.inputs)


class GatedAlexNet(Gated):
    """7,140,581 parameters on the mixture."""

    plain = AlexNet


class GatedMLP(Gated):
    """5,600,010 parameters on mnist2, 5,812,100 on pmnist: three times those of the MLP of all other approaches."""

    plain = WideMLP
