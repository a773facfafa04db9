"""Tasks that use some of the weights of each layer, and freeze them: what PackNet and WSN share.

Weights are those of the shared layers that have two or more dimensions, one tensor a layer. All else in these layers
(biases, norms and their statistics, embeddings of positions) is trained in the first task only.
"""

import torch
import torch.nn.functional as F
from torch.func import functional_call

from approaches.base import Approach


class Masked(Approach):
    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        shared = {name: p for name, p in self.net.named_parameters() if name.startswith('blocks.')}
        self.names = [name for name, p in shared.items() if name.endswith('weight') and p.ndim > 1]
        self.weights = [shared[name] for name in self.names]
        self.others = [p for name, p in shared.items() if name not in self.names]
        self.norms = [m for m in self.net.modules() if getattr(m, 'running_mean', None) is not None]

    def masked(self, t):
        """The weights that task t computes with, a list like self.weights."""
        raise NotImplementedError

    def frozen(self, t):
        """Which weights task t uses unchanged: bool tensors, a list like self.weights."""
        raise NotImplementedError

    def before_task(self, t):
        for p in self.others:
            p.requires_grad_(t == 0)
        self.store_weights()

    def store_weights(self):
        """Store the current weights: what is frozen keeps these values."""
        self.old = [p.detach().clone() for p in self.weights]

    def loss(self, x, y, t, progress):
        for norm in self.norms:
            norm.train(norm.training and t == 0)
        logits = functional_call(self.net, dict(zip(self.names, self.masked(t), strict=True)), (x, t))
        return F.cross_entropy(logits, y), logits

    @torch.no_grad()
    def after_step(self, t):
        for p, old, frozen in zip(self.weights, self.old, self.frozen(t), strict=True):
            torch.where(frozen, old, p, out=p)  # a zero gradient is not enough: an optimizer may have weight decay


def top(values, k):
    """Where the k largest values are: a bool tensor with exactly k ones, even if values are equal."""
    index = values.flatten().topk(k, sorted=False).indices
    ones = torch.zeros(values.numel(), dtype=torch.bool, device=values.device).scatter_(0, index, True)
    return ones.view(values.shape)
