"""A memory of images of earlier tasks, filled by reservoir sampling, for ER and DER++.

The stream of images (Vitter 1985; Chaudhry et al. 2019, section 4): at the end of a task each of its training images
comes once; the i-th image of all tasks so far takes a place in the memory with probability buffer / i, and the place is
drawn. So at any time each image seen so far is in the memory with the same probability, however many epochs its task
had. In the papers the images come while their task is trained: in its only epoch, or in each of its epochs.

Of an image in the memory are kept the uint8 values that its task holds, its label, and which task it is of; of all
other images only their number. A stored image passes through the head of its task. The best model is chosen by the new
task's validation images alone, as those of earlier tasks are not kept.
"""

import torch
import torch.nn.functional as F

from approaches.base import Approach
from core import seeds
from core.hyperparameters import Parameter
from dataloaders.task import Images

BUFFER = Parameter(500, grid=(200, 500, 5120), low=0)  # number of images


class Replay(Approach):
    draws = 1  # how many images are drawn from the memory for each training image
    kept = ('images', 'labels')  # for each earlier task a tensor of its images in the memory, (n, ...)

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        for name in self.kept:
            setattr(self, name, [])
        self.drawn = None  # for each training image the places drawn in this epoch, (draws, n); None: nothing is kept

    def before_task(self, t):
        """The memory as network input: `x`, `y`, and the task of each image, `owner`; (n, ...) each."""
        if not sum(map(len, self.labels)):
            return
        parts = zip(self.tasks, self.images, self.labels, strict=False)
        x, y = zip(*(task.batch(stored(*part), slice(None)) for task, *part in parts), strict=True)
        self.x, self.y = torch.cat(x), torch.cat(y)
        self.owner = torch.cat([torch.full_like(labels, u) for u, labels in enumerate(y)])
        self.drawn = self.owner.new_empty(self.draws, self.n_train(t))
        self.draw(t, 0)

    def draw(self, t, epoch):
        generator = seeds.generator(self.protocol.seed, 'replay', t, epoch)
        self.drawn.copy_(torch.randint(len(self.y), self.drawn.shape, generator=generator))

    def train_epoch(self, t, epoch, lr):
        if self.drawn is not None:
            self.draw(t, epoch)
        return super().train_epoch(t, epoch, lr)

    def replay(self, draw, index, loss):
        """Mean loss of the stored images that are drawn for the training images `index`, as many as those.

        draw  which of the draws
        loss  of each image, (B,): loss(logits, places, here), logits of one head, here: which images are of its task
        """
        places, total = self.drawn[draw].index_select(0, index), 0
        features, owner = self.net.features(self.x[places]), self.owner[places]
        for u in range(len(self.labels)):
            here = owner == u
            total = total + here * loss(self.net.heads[u](features), places, here)
        return total.mean()

    def cross_entropy(self, logits, places, here):
        return F.cross_entropy(logits, self.y[places] * here, reduction='none')

    def after_task(self, t):
        held, n = [len(labels) for labels in self.labels], len(self.tasks[t].train.y)
        seen = sum(len(task.train.y) for task in self.tasks[:t])
        generator = seeds.generator(self.protocol.seed, 'reservoir', t)
        keep = torch.zeros(sum(held) + n, dtype=torch.bool)
        keep[reservoir(sum(held), seen, n, self.buffer, generator)] = True
        *old, new = keep.to(self.tasks[t].train.y.device).split([*held, n])
        added = self.added(t, new.nonzero().squeeze(1))
        for name in self.kept:
            setattr(self, name, [v[k] for v, k in zip(getattr(self, name), old, strict=True)] + [added[name]])

    def added(self, t, index):
        """What is kept of the training images `index` of task t, by name."""
        images = self.tasks[t].train
        return {'images': images.x[images.index[index]], 'labels': images.y[index]}


def stored(images, labels):
    """A task's images in the memory as one of its splits."""
    return Images(images, torch.arange(len(labels), device=labels.device), labels)


def reservoir(held, seen, n, size, generator):
    """Which images are in the memory after n more: numbers below `held` are those in it, held + i is the i-th new one.

    held  how many are in it
    seen  how many images came before
    size  how many fit
    """
    places = list(range(held))
    draws = torch.randint(2**62, (n,), generator=generator) % torch.arange(seen + 1, seen + n + 1)
    for i, place in enumerate(draws.tolist(), held):
        if len(places) < size:
            places.append(i)
        elif place < size:
            places[place] = i
    return places
