"""What each task has for itself, and where things are in a network."""

import torch
from torch import nn


class Task(nn.Module):
    """What a task has for itself.

    embeddings  of each gate, (N,)
    own         parameters and statistics of norms, the head, and what else is no layer's (positions, tokens, scales),
                by the names that they have in the network
    """

    @torch.no_grad()
    def __init__(self, net, plan, n_classes, init, frozen=(), generator=None):
        """Starts from what the network has; a head of another size than the network's, as PyTorch starts layers.

        frozen  names of parameters that are not trained
        """
        super().__init__()
        like = next(net.parameters())
        self.n_classes, self.own = n_classes, nn.Module()
        self.embeddings = nn.ParameterList(torch.empty(len(units)) for units in plan.units.of_gate)
        for e in self.embeddings:
            init(e, generator=generator)
        for name in plan.own:
            tensor = find(net, name)
            plant(self.own, name, tensor.detach().clone(), isinstance(tensor, nn.Parameter), name not in frozen)
        for weight, bias, axis in plan.heads:
            w = find(net, weight)
            if n_classes not in (None, w.shape[axis]):
                bound = w[0].numel() ** -0.5
                for name in filter(None, (weight, bias)):
                    shape = list(find(net, name).shape)
                    shape[axis if name == weight else 0] = n_classes
                    fresh = torch.empty(shape).uniform_(-bound, bound, generator=generator)
                    plant(self.own, name, fresh, True, name not in frozen)
        self.to(like.device, like.dtype)


def find(net, name):
    """The parameter or buffer of that name."""
    path, _, leaf = name.rpartition('.')
    return getattr(net.get_submodule(path), leaf)


def plant(root, name, tensor, parameter, trained):
    """Make a tensor a parameter or buffer below `root`, under its dotted name."""
    *path, leaf = name.split('.')
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        root = root._modules[part]
    if parameter:
        root.register_parameter(leaf, nn.Parameter(tensor, requires_grad=trained))
    else:
        root.register_buffer(leaf, tensor)
