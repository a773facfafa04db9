"""Progressive network (Rusu et al. 2016): a column for each task, with lateral connections from the earlier columns."""

import torch
from torch import nn

from networks import alexnet, mlp
from networks.layers import activation, linear, plan


class Columns(nn.Module):
    """Input (B, *shape) float, output (B, classes[t]) logits of task t, from the columns 0 to t."""

    layers = ()  # of layers.Layer; a subclass says which

    @staticmethod
    def factor(n_tasks):
        """All columns' units together, over those of the plain network's layer: matches the number of parameters."""
        raise NotImplementedError

    def __init__(self, shape, classes, width=1):
        super().__init__()
        planned = list(plan(self.layers, shape, self.factor(len(classes)) * width / len(classes)))
        self.columns = nn.ModuleList(Column(planned, n, t) for t, n in enumerate(classes))

    def forward(self, x, t):
        columns, outputs = self.columns[: t + 1], [x] * (t + 1)
        for l in range(len(self.layers)):
            outputs = [column.layer(l, outputs[u], outputs[:u]) for u, column in enumerate(columns)]
        return columns[t].head(outputs[t], outputs[:t])


class Column(nn.Module):
    def __init__(self, planned, n_classes, t):
        super().__init__()
        units = planned[-1][2]
        self.kernels = nn.ModuleList(linear(*layer) for layer in planned)
        self.activations = nn.ModuleList(activation(layer) for layer, _, _ in planned)
        self.classifier = nn.Linear(units, n_classes)
        # The first layer reads the input data in every column: nothing to connect there.
        self.laterals = nn.ModuleList(Lateral(*layer, t) for layer in planned[1:]) if t else None
        self.lateral_classifier = Lateral(None, units, n_classes, t) if t else None

    def layer(self, l, h, others):
        """Output of layer l from that of layer l - 1, h in this column, `others` in the columns before it."""
        flat = isinstance(self.kernels[l], nn.Linear)
        z = self.kernels[l](h.flatten(1) if flat else h)
        if l and others:
            z = z + self.laterals[l - 1](others)
        return self.activations[l](z)

    def head(self, h, others):
        logits = self.classifier(h)
        return logits + self.lateral_classifier(others) if others else logits


class Lateral(nn.Module):
    """U relu(V [alpha_1 h_1, ..., alpha_t h_t]), the lateral connection from t columns (Rusu et al. 2016, Eq. 2).

    V reduces all of them to the size of one, U is a kernel like the layer's own.
    """

    def __init__(self, layer, inputs, units, t):
        super().__init__()
        convolution = layer is not None and layer.kernel
        self.alpha = nn.Parameter(torch.empty(t))
        self.reduction = nn.Conv2d(t * inputs, inputs, 1) if convolution else nn.Linear(t * inputs, inputs)
        self.kernel = linear(layer, inputs, units) if convolution else nn.Linear(inputs, units)
        self.reset_parameters()

    def reset_parameters(self, generator=None):
        """Each alpha starts from U(0, 0.1): Rusu et al. 2016 say a small random value, and not which."""
        nn.init.uniform_(self.alpha, 0, 0.1, generator=generator)

    def forward(self, others):
        flat = isinstance(self.reduction, nn.Linear)
        scaled = [a * (h.flatten(1) if flat else h) for a, h in zip(self.alpha, others, strict=True)]
        return self.kernel(torch.relu(self.reduction(torch.cat(scaled, 1))))


class ProgressiveAlexNet(Columns):
    """7,160,706 parameters on the mixture."""

    layers = alexnet.LAYERS

    @staticmethod
    def factor(n_tasks):
        return 1.117


class ProgressiveMLP(Columns):
    """1,922,242 parameters on mnist2, 1,976,863 on pmnist. The original code has none for the MNIST experiments."""

    layers = mlp.LAYERS

    @staticmethod
    def factor(n_tasks):
        return 0.909 * n_tasks**0.074
