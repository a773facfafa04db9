"""Joint: multitask training on all tasks so far, the reference A_J of the forgetting ratio (HAT, Eq. 6).

For each task the network starts again from the same initial weights; a batch mixes images of all the tasks.
"""

import torch
import torch.nn.functional as F

from approaches.sgd_restart import SGDRestart


class Joint(SGDRestart):
    def n_train(self, t):
        return sum(len(task.train.y) for task in self.tasks[: t + 1])

    def batch_loss(self, index, t, progress):
        x, y = [], []
        for task in self.tasks[: t + 1]:  # the images are numbered task after task
            n = len(task.train.y)
            images = task.batch(task.train, index[(index >= 0) & (index < n)])
            x.append(images[0])
            y.append(images[1])
            index = index - n
        features = self.net.features(torch.cat(x)).split([len(part) for part in y])
        losses = (F.cross_entropy(self.net.heads[u](h), y[u], reduction='sum') for u, h in enumerate(features))
        return sum(losses) / sum(map(len, y))

    def validate(self, t):
        """Mean over all validation images."""
        n = torch.tensor([len(task.valid.y) for task in self.tasks[: t + 1]], dtype=torch.float64)
        each = torch.tensor([self.evaluate(u, self.tasks[u].valid) for u in range(t + 1)], dtype=torch.float64)
        return tuple((n @ each / n.sum()).tolist())
