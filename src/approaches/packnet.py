"""PackNet (Mallya & Lazebnik 2018): each task takes some of the weights that are still free, and freezes them.

All free weights are trained; those of earlier tasks are used as they are. Then, in each layer, the share `prune` of the
trained weights, those of the smallest magnitude, is set to zero and stays free. The others are the task's from now on,
and are retrained. Task t is computed with the weights of the tasks up to t.

With prune = 0.75 eight tasks take 25, 19, 14, ..., 3 % of a layer. With share=equal each of T tasks takes 1 / T of it.

There are at most nepochs passes over the images, as in all approaches: two thirds of them for training, and for
retraining half as many as training took (paper: 20 and 10). Retraining starts with the learning rate of the protocol
(original: with a tenth). The last task is pruned like the others (original: it is not).
"""

import torch

from approaches.common.masks import Masked, top
from core.hyperparameters import Parameter


class PackNet(Masked):
    parameters = {
        'prune': Parameter(0.75, grid=(0.5, 0.75, 0.9), low=0, high=1),  # of the weights that a task trains
        'share': Parameter('free', choices=('free', 'equal')),  # equal: what leaves each task as many; prune is unused
    }
    kept = ('owners', 'learned', 'trained')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        number = torch.uint8 if len(self.tasks) < 256 else torch.int32
        # The task that each weight belongs to: t + 1 for task t, 0 while it is free
        self.owners = [torch.zeros_like(p, dtype=number) for p in self.weights]
        self.learned = 0  # tasks
        self.trained = 0  # epochs of this task's training; 0 until it ends

    def masked(self, t):
        if t >= self.learned:  # all that is free is in training, or zero
            return self.weights
        pairs = zip(self.weights, self.owners, strict=True)
        return [torch.where((owner > 0) & (owner <= t + 1), p, 0) for p, owner in pairs]

    def frozen(self, t):
        return [owner != (t + 1 if self.trained else 0) for owner in self.owners]

    def n_rounds(self):
        retraining = -(-self.trained // 2)  # rounded up
        return min(self.trained + retraining, self.protocol.nepochs) if self.trained else self.protocol.nepochs

    def observe(self, t):
        return {'retraining': int(self.trained > 0)}

    def decide(self, t, valid_loss):
        """When training ends: prune, and start again with the first learning rate (a cosine schedule continues)."""
        super().decide(t, valid_loss)
        now, p = self.training, self.protocol
        epochs, most = len(now.log), max(1, round(2 * p.nepochs / 3))
        if not self.trained and (epochs == most or now.lr < p.lr_min):
            self.restore(now.best)
            self.pack(t)
            self.store_weights()
            now.patience, now.best, now.best_loss = p.patience, self.snapshot(), self.validate(t)[0]
            now.lr = p.lr if p.schedule == 'paper' else now.lr
            self.trained, self.steps, now.optimizer = epochs, None, []  # a captured step would freeze what it did

    def after_task(self, t):
        self.learned, self.trained = t + 1, 0

    @torch.no_grad()
    def pack(self, t):
        """Of the free weights of each layer task t keeps those of the largest magnitude; the others are set to zero."""
        for p, owner in zip(self.weights, self.owners, strict=True):
            free = owner == 0
            n = int(free.sum())
            pruned = round(self.prune * n) if self.share == 'free' else n - round(n / (len(self.tasks) - t))
            owner.masked_fill_(top(torch.where(free, p.abs(), -1), n - pruned), t + 1)
            p.masked_fill_(owner == 0, 0)
