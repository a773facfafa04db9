"""SI: synaptic intelligence (Zenke et al. 2017).

    loss = cross-entropy + c * sum Omega (p - p_old)^2                                           (their Eq. 4)

Omega sums omega / ((p_new - p_old)^2 + xi) over the tasks so far (their Eq. 5): p_old are the weights before a task,
p_new those after it. omega, the path integral (their Eq. 3), sums -gradient of the cross-entropy * movement over the
training steps. As in their code, Omega is never negative: after each task max(0, Omega).
"""

import torch

from approaches.base import Approach
from approaches.common.penalty import squared_distance
from core.hyperparameters import Parameter


class SI(Approach):
    parameters = {'c': Parameter(0.1, grid=(0.01, 0.02, 0.05, 0.1, 0.2, 1), low=0), 'xi': Parameter(0.1, low=1e-9)}
    kept = ('old', 'importance')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared = list(self.net.blocks.parameters())
        self.old = [p.detach().clone() for p in self.shared]
        self.importance = [torch.zeros_like(p) for p in self.old]  # Omega
        self.path = [torch.zeros_like(p) for p in self.old]  # omega
        self.gradient = [torch.zeros_like(p) for p in self.old]  # of the step at hand
        self.before = [torch.zeros_like(p) for p in self.old]  # the weights before it

    def before_task(self, t):
        for path in self.path:
            path.zero_()

    def loss(self, x, y, t, progress):
        loss, logits = super().loss(x, y, t, progress)
        with torch.no_grad():  # after_backward adds its gradient
            penalty = self.c * squared_distance(self.shared, self.old, self.importance)
        return loss + penalty, logits

    @torch.no_grad()
    def after_backward(self, t, progress):
        tensors = zip(self.shared, self.old, self.importance, self.gradient, self.before, strict=True)
        for p, old, importance, gradient, before in tensors:
            if p.grad is not None:  # a layer that the network does not use has none
                gradient.copy_(p.grad)
                before.copy_(p)
                p.grad += 2 * self.c * importance * (p - old)

    @torch.no_grad()
    def after_step(self, t):
        for path, gradient, p, before in zip(self.path, self.gradient, self.shared, self.before, strict=True):
            path -= gradient * (p - before)

    @torch.no_grad()
    def after_task(self, t):
        for importance, path, p, old in zip(self.importance, self.path, self.shared, self.old, strict=True):
            importance += path / ((p - old) ** 2 + self.xi)
            importance.clamp_(min=0)
            old.copy_(p)

    def snapshot(self):
        return super().snapshot(), [path.clone() for path in self.path]

    def restore(self, snapshot):
        weights, paths = snapshot
        super().restore(weights)
        for path, value in zip(self.path, paths, strict=True):
            path.copy_(value)
