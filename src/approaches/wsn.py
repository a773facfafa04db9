"""WSN: winning subnetworks (Kang et al. 2022). Each task chooses the share c of the weights of each layer.

Each weight w has a score s, trained beside it. The mask m of a task is 1 for the k = c n largest |s| of a layer's n
weights, and 0 otherwise; the layer computes with w m. Straight through the choice, the gradient of |s| is that of m:

    dL/dw = g m (1 - M)        dL/ds = g w sign(s)        for the gradient g of the product w m

M is 1 for the weights that an earlier task has chosen: later tasks may use them, but not change them. A task starts
with the scores of the task before, and so with its mask (original). With scores=fresh scores are drawn anew: at first
about the share c of the mask is what the task before has chosen.
"""

import math

import torch
from torch import nn

from approaches.common.masks import Masked, top
from core import seeds
from core.hyperparameters import Parameter


class WSN(Masked):
    parameters = {
        'c': Parameter(0.5, grid=(0.05, 0.1, 0.3, 0.5, 0.7), low=0, high=1),  # capacity
        'scores': Parameter('kept', choices=('kept', 'fresh')),  # at the start of a task
    }
    kept = ('masks',)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.net.scores = nn.ParameterList(torch.empty_like(p) for p in self.weights)
        # Which weights each learned task uses, and which the current scores choose: bool tensors, like self.weights
        self.masks, self.mask = [], [torch.zeros_like(p, dtype=torch.bool) for p in self.weights]
        self.draw(0)

    @torch.no_grad()
    def draw(self, t):
        """Scores from U(-1, 1) / sqrt(inputs of a unit) (original)."""
        for name, s in zip(self.names, self.net.scores, strict=True):
            generator = seeds.generator(self.protocol.seed, 'scores', t, name)
            s.copy_(torch.empty(s.shape).uniform_(-1, 1, generator=generator) / math.sqrt(s[0].numel()))
        self.select()

    @torch.no_grad()
    def select(self):
        for mask, s in zip(self.mask, self.net.scores, strict=True):
            mask.copy_(top(s.abs(), max(1, round(self.c * s.numel()))))

    def masked(self, t):
        if t < len(self.masks):
            return [torch.where(mask, p, 0) for p, mask in zip(self.weights, self.masks[t], strict=True)]
        return [Chosen.apply(*three) for three in zip(self.weights, self.net.scores, self.mask, strict=True)]

    def frozen(self, t):
        return self.used

    def before_task(self, t):
        super().before_task(t)
        none = [torch.zeros_like(mask) for mask in self.mask]
        self.used = [torch.stack(each).any(0) for each in zip(none, *self.masks, strict=True)]  # M
        if self.scores == 'fresh':
            self.draw(t)

    def after_step(self, t):
        super().after_step(t)
        self.select()

    def restore(self, snapshot):
        super().restore(snapshot)
        self.select()

    def after_task(self, t):
        self.masks.append([mask.clone() for mask in self.mask])


class Chosen(torch.autograd.Function):
    """w m, of weights, scores and mask of one shape."""

    @staticmethod
    def forward(context, w, s, m):
        context.save_for_backward(w, s, m)
        return torch.where(m, w, 0)

    @staticmethod
    def backward(context, g):
        w, s, m = context.saved_tensors
        return torch.where(m, g, 0), g * w * s.sign(), None
