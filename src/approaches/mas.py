"""MAS: memory aware synapses (Aljundi et al. 2018).

    loss = cross-entropy + lamb * sum Omega (p - p_old)^2                                        (their Eq. 4)

Omega is the mean over the training images of |d ||f(x)||^2 / d p|, f(x) the logits of the task: how much the output
changes with the weight (their Eqs. 2, 3). No label is needed. It is summed over the tasks so far, as in the paper and
its code: what a weight means to an early task does not fade while others are learned.

Their code: by default the absolute gradient of batches of 200 images, in which gradients of opposite sign cancel; in
one of its two functions that add Omega up over tasks, by default that of single images, as here.
"""

import torch

from approaches.base import Approach
from approaches.common.gradients import mean_over_images
from approaches.common.penalty import squared_distance
from core.hyperparameters import Parameter


class MAS(Approach):
    parameters = {'lamb': Parameter(1.0, grid=(0.01, 0.03, 0.1, 0.3, 1, 3, 10), low=0)}
    clip = 100
    kept = ('importance', 'old')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared = list(self.net.blocks.parameters())
        self.importance = self.old = None  # Omega and p_old, lists like self.shared

    def loss(self, x, y, t, progress):
        loss, logits = super().loss(x, y, t, progress)
        if self.importance is not None:
            loss = loss + self.lamb * squared_distance(self.shared, self.old, self.importance)
        return loss, logits

    def after_task(self, t):
        new = mean_over_images(torch.abs, squared_norm, self.net, self.tasks[t], t)
        self.importance = [f + g for f, g in zip(self.importance, new, strict=True)] if self.importance else new
        self.old = [p.detach().clone() for p in self.shared]


def squared_norm(logits, labels):
    """||f(x)||^2 of the logits (1, classes) of an image, whatever its label."""
    return (logits**2).sum()
