"""Joint: multitask training on all tasks so far, the reference A_J of the forgetting ratio (HAT, Eq. 6).

For each task the network starts from the same initial weights; a batch mixes images of all tasks.
"""

import torch
import torch.nn.functional as F

from approaches.sgd_restart import SGDRestart


class Joint(SGDRestart):
    def n_train(self, t):
        return sum(len(task.train.y) for task in self.tasks[: t + 1])

    def batch_loss(self, index, t, progress):
        """Each image is looked up in all tasks and passes through all their heads: no shape depends on the batch."""
        x, answers = None, []
        for u, task in enumerate(self.tasks[: t + 1]):  # the images are numbered task after task
            n = len(task.train.y)
            here = (index >= 0) & (index < n)
            images, y = self.training_batch(index.clamp(0, n - 1), u)
            x = images if x is None else torch.where(here.view(-1, 1, 1, 1), images, x)
            answers.append((self.net.heads[u], y, here))
            index = index - n
        features = self.net.features(x)
        losses = (F.cross_entropy(head(features), y, reduction='none') * here for head, y, here in answers)
        return sum(losses).mean()

    def stored(self):
        """The training images of all tasks."""
        return {'images': sum(len(task.train.y) * task.train.x[0].nbytes for task in self.tasks)}

    def validate(self, t):
        return tuple(self.mean([self.evaluate(u, self.tasks[u].valid) for u in range(t + 1)]))

    def chance(self, t):
        return self.mean([task.valid.most_frequent() for task in self.tasks[: t + 1]])

    def mean(self, values):
        """Over all validation images, of a value for each task so far; or of each of several values."""
        n = torch.tensor([len(task.valid.y) for task in self.tasks[: len(values)]], dtype=torch.float64)
        return (n @ torch.tensor(values, dtype=torch.float64) / n.sum()).tolist()
