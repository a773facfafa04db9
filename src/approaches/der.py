"""DER++: dark experience replay (Buzzega et al. 2020).

    loss = cross-entropy + alpha * distance of logits + beta * cross-entropy of stored images    (their Eq. 6)

The distance is the mean over the classes of (z - z_old)^2, as in the authors' code, z_old the logits stored with an
image. The two terms draw from the memory separately. With beta = 0 it is DER. Paper: the logits are those of the
training step in which an image enters the memory; here: of the best model, in evaluation mode, as images enter it at
the end of a task (replay.py).
"""

import torch
import torch.nn.functional as F

from approaches.common.replay import BUFFER, Replay, stored
from core.hyperparameters import Parameter


class DER(Replay):
    parameters = {
        'buffer': BUFFER,
        'alpha': Parameter(0.2, grid=(0.1, 0.2, 0.5, 1), low=0),
        'beta': Parameter(0.5, grid=(0.5, 1), low=0),
    }
    draws = 2
    kept = (*Replay.kept, 'logits')

    def before_task(self, t):
        super().before_task(t)
        most = max(task.n_classes for task in self.tasks)
        rows = [F.pad(logits, (0, most - logits.shape[1])) for logits in self.logits]
        self.z = torch.cat(rows) if rows else None  # (n, most classes), 0 where a task has fewer

    def batch_loss(self, index, t, progress):
        loss = super().batch_loss(index, t, progress)
        if self.drawn is not None and self.alpha:
            loss = loss + self.alpha * self.replay(0, index, self.distance)
        if self.drawn is not None and self.beta:
            loss = loss + self.beta * self.replay(1, index, self.cross_entropy)
        return loss

    def distance(self, logits, places, here):
        return ((logits - self.z[places][:, : logits.shape[1]]) ** 2).mean(1)

    @torch.no_grad()
    def added(self, t, index):
        added, head = super().added(t, index), self.net.heads[t]
        self.net.eval()
        batches = self.tasks[t].batches(stored(added['images'], added['labels']))
        logits = [head.weight.new_empty(0, head.out_features), *(self.net(x, t) for x, _ in batches)]
        return added | {'logits': torch.cat(logits)}
