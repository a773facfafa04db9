"""A plain network with a gate after each hidden layer (HAT, section 2.2)."""

import torch
from torch import nn

import hat
from hat.pruning import remove_zero_channels
from networks.alexnet import AlexNet
from networks.mlp import WideMLP


class Gated(nn.Module):
    """Input (B, *shape) float and the masks of a task, output (B, classes[t]) logits of task t.

    hidden  the hidden layers, converted, a hat.Network
    heads   of each task
    units   number of units of each gate
    """

    def __init__(self, hidden, n_features, classes, shape):
        super().__init__()
        example = torch.zeros(2, *shape)
        self.hidden = hat.convert(hidden, len(classes), example, gates=lambda layer: True, heads=False)
        self.units = self.hidden.plan.units.sizes
        self.heads = nn.ModuleList(nn.Linear(n_features, n) for n in classes)

    def forward(self, x, t, masks):
        return self.heads[t](self.features(x, t, masks))

    def features(self, x, t, masks):
        return self.hidden.run((x,), t, masks)

    def condition(self):
        """Eq. 2 for the gradients of a training step, where the backward pass has not applied it."""

    def pruned(self, t):
        """The plain network of task t, cut down to what the task uses: the same outputs in evaluation."""
        return remove_zero_channels(nn.Sequential(hat.plain(self.hidden, t), self.heads[t]), self.hidden.plan.inputs)


class GatedPlain(Gated):
    """With masks between 0 and 1 the layers themselves are trained, with gates in the activations and Eq. 2 after the
    backward pass: where layers are narrow, the library, which is made for any network, takes a tenth longer. With
    binary masks the library trains them: it keeps the values of weights."""

    plain = None  # the networks.plain.Plain of these hidden layers; a subclass says which

    def __init__(self, shape, classes, width=1):
        hidden = self.plain(shape, (), width)
        super().__init__(hidden, hidden.units[-1], classes, shape)

    @property
    def trains_layers(self):
        return self.training and not self.hidden.hard

    def features(self, x, t, masks):
        return self.hidden.net.features(x, masks) if self.trains_layers else super().features(x, t, masks)

    def condition(self):
        if self.trains_layers:
            shared = self.hidden.shared
            for name, factor in self.hidden.factors.items():
                shared[name].grad.mul_(factor)


class GatedAlexNet(GatedPlain):
    """7,140,581 parameters on the mixture."""

    plain = AlexNet


class GatedMLP(GatedPlain):
    """5,600,010 parameters on mnist2, 5,812,100 on pmnist: three times those of the MLP of all other approaches."""

    plain = WideMLP
