"""LWF: learning without forgetting (Li & Hoiem 2017).

    loss = cross-entropy + lamb * sum over old heads of the distillation loss                    (their Eqs. 1 to 4)

The outputs of the old network for the new task's images are preserved, head by head: with lamb = 2 for each, as in the
original code (Li & Hoiem: mostly 1, and T = 2), four old tasks have eight times the weight of the new one. As in the
original code, the new head has no warm-up: the protocol is the same for all approaches.
"""

import torch
import torch.nn.functional as F

from approaches.common.teacher import Taught
from core.hyperparameters import Parameter


class LWF(Taught):
    parameters = {
        'lamb': Parameter(2.0, grid=(0.1, 0.5, 1, 2, 4, 8, 10), low=0),
        'T': Parameter(1.0, grid=(0.5, 1, 2, 4), low=1e-3),  # temperature
    }
    clip = 100

    def loss(self, x, y, t, progress):
        features = self.net.features(x)
        logits = self.net.heads[t](features)
        loss = F.cross_entropy(logits, y)
        if self.teacher is not None:
            with torch.no_grad():
                old = self.teacher.features(x)
            for u in range(t):
                loss = loss + self.lamb * distillation(self.net.heads[u](features), self.teacher.heads[u](old), self.T)
        return loss, logits


def distillation(logits, old, T):
    """Cross-entropy between softened probabilities, softmax(logits / T), of old and new logits (N, classes)."""
    return -(F.softmax(old / T, 1) * F.log_softmax(logits / T, 1)).sum(1).mean()
