"""IMM: incremental moment matching (Lee et al. 2017), with L2-transfer.

The training of a task starts from the weights mu of the task before, and a penalty keeps it near them:

    loss = cross-entropy + lamb / 2 * ||p - mu||^2

Then the weights of all tasks so far are merged with equal shares, and the merged network is used for testing:

    mean-IMM    (mu_1 + ... + mu_t) / t                                              (their Eq. 3)
    mode-IMM    (F_1 mu_1 + ... + F_t mu_t) / (F_1 + ... + F_t), F the Fisher diagonal (their Eqs. 9, 10)

Original: task t + 1 is trained from the merged weights instead of mu_t; the mode's merge is computed but not used.
Each head belongs to one task: heads are neither merged nor penalized (original: both; mean-IMM thereby merges the head
of task t with t - 1 parts of its initial values). lamb of mode-IMM: 0.01 is the default of the original code, whose
comment calls 1 the best of the grid.
"""

import torch

from approaches.base import Approach
from approaches.common.fisher import fisher
from approaches.common.penalty import squared_distance
from core.hyperparameters import Parameter

TINY = 1e-12  # added to each Fisher value: a weight of no importance to any task becomes the mean


class IMMMean(Approach):
    parameters = {'lamb': Parameter(1e-4, grid=(0.01, 0.005, 0.001, 0.0005, 0.0001, 0.00005, 0.000001), low=0)}
    kept = ('mu', 'weighted', 'weight')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.shared = list(self.net.blocks.parameters())
        self.mu = None  # weights after the last task, unmerged; lists like self.shared
        self.weighted = self.weight = None  # sums over the tasks of precision * mu, and of the precision

    def before_task(self, t):
        if self.mu is not None:
            set_values(self.shared, self.mu)

    def loss(self, x, y, t, progress):
        loss, logits = super().loss(x, y, t, progress)
        if self.mu is not None:
            loss = loss + self.lamb / 2 * squared_distance(self.shared, self.mu)
        return loss, logits

    def after_task(self, t):
        self.mu = [p.detach().clone() for p in self.shared]
        precision = self.precision(t)
        weighted = [f * p for f, p in zip(precision, self.mu, strict=True)]
        self.weight = precision if t == 0 else add(self.weight, precision)
        self.weighted = weighted if t == 0 else add(self.weighted, weighted)
        set_values(self.shared, [a / b for a, b in zip(self.weighted, self.weight, strict=True)])

    def precision(self, t):
        """Weight of each parameter of task t in the merge; a list like self.shared, of its shapes or of scalars."""
        return [p.new_ones(()) for p in self.mu]


class IMMMode(IMMMean):
    parameters = {'lamb': Parameter(0.01, grid=(10, 1, 0.1, 0.01, 0.001, 0.0001, 0.00001), low=0)}
    clip = 1_000

    def precision(self, t):
        return [f + TINY for f in fisher(self.net, self.tasks[t], t)]


def add(a, b):
    return [x + y for x, y in zip(a, b, strict=True)]


@torch.no_grad()
def set_values(parameters, values):
    for p, value in zip(parameters, values, strict=True):
        p.copy_(value)
