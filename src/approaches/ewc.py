"""EWC: elastic weight consolidation (Kirkpatrick et al. 2017).

    loss = cross-entropy + lamb / 2 * sum F (p - p_old)^2                                        (their Eq. 3)

One running Fisher for all tasks, F = (F_new + t F_old) / (t + 1), as in the original code; the method's paper keeps a
penalty for each task.
"""

from approaches.base import Approach
from approaches.common.fisher import fisher
from approaches.common.penalty import squared_distance
from core.hyperparameters import Parameter


class EWC(Approach):
    parameters = {'lamb': Parameter(5000.0, grid=(500, 1000, 2000, 5000, 10000, 20000, 50000), low=0)}
    clip = 100
    kept = ('fisher', 'old')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared = list(self.net.blocks.parameters())
        self.fisher = self.old = None  # lists like self.shared

    def loss(self, x, y, t, progress):
        loss, logits = super().loss(x, y, t, progress)
        if self.fisher is not None:
            loss = loss + self.lamb / 2 * squared_distance(self.shared, self.old, self.fisher)
        return loss, logits

    def after_task(self, t):
        new = fisher(self.net, self.tasks[t], t)
        self.fisher = [(f + t * g) / (t + 1) for f, g in zip(new, self.fisher or new, strict=True)]
        self.old = [p.detach().clone() for p in self.shared]
