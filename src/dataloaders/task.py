"""A task: its images in three splits, and how a batch is made of them. The seed sets task order and splits."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F

from core import seeds
from core.errors import UserError

# The memory format of a batch in which a network is fast
LAYOUT = {'cpu': torch.channels_last, 'cuda': torch.contiguous_format, 'mps': torch.contiguous_format}
EVAL_BATCH = {'cpu': 512, 'cuda': 2048, 'mps': 512}  # images at a time
VALID_PERCENT = 15  # of the training images are held out for validation (paper, section 4)


class Dataset(NamedTuple):
    """What an experiment reads: uint8 images (N,H,W,C), int64 labels (N,), mean and std on the 0..1 scale."""

    name: str
    n_classes: int
    mean: tuple  # one value, or one for each channel
    std: tuple
    train_x: np.ndarray
    train_y: np.ndarray
    test_x: np.ndarray
    test_y: np.ndarray
    fingerprint: str | None = None  # of the npz; None if there is none
    pixels: np.ndarray | None = None  # (H*W,) int64, grey images only: a permutation of the pixels


class Images(NamedTuple):
    """One split. Training and validation share x: the data are in memory once."""

    x: torch.Tensor  # (N,H,W,C) uint8, as in the file: not yet padded, repeated or normalized
    index: torch.Tensor  # (n,) positions of this split's images in x
    y: torch.Tensor  # (n,) int64, their labels

    def most_frequent(self):
        """The share of the most frequent class: the accuracy of answering it always."""
        return int(self.y.cpu().bincount().max()) / len(self.y)


@dataclass(frozen=True)
class Task:
    name: str
    n_classes: int
    shape: tuple  # of the network's input (channels, height, width)
    mean: torch.Tensor  # (1,C,1,1), in grey levels 0..255
    std: torch.Tensor
    train: Images
    valid: Images
    test: Images
    fingerprint: str | None = None  # of its data set
    pixels: torch.Tensor | None = None

    def to(self, device):
        train, test = (Images(*(v.to(device) for v in images)) for images in (self.train, self.test))
        valid = Images(train.x, self.valid.index.to(device), self.valid.y.to(device))
        mean, std, pixels = (v if v is None else v.to(device) for v in (self.mean, self.std, self.pixels))
        return replace(self, mean=mean, std=std, train=train, valid=valid, test=test, pixels=pixels)

    def sizes(self):
        """For the record of a run."""
        images = {k: len(getattr(self, k).y) for k in ('train', 'valid', 'test')}
        return {'name': self.name, 'n_classes': self.n_classes, **images, 'data': self.fingerprint}

    def batch(self, images, index):
        """Images `index` (a slice or LongTensor) as network input, (B, *shape) float, and their labels, (B,).

        Smaller images are padded with black, grey ones are repeated on all channels.
        """
        x = images.x.index_select(0, images.index[index])  # indexing with [] takes many times as long
        if self.pixels is not None:
            x = x.flatten(1).gather(1, self.pixels.expand(len(x), -1)).view(x.shape)
        x = x.permute(0, 3, 1, 2)
        channels, height, width = self.shape
        margin = (width - x.shape[3]) // 2, (height - x.shape[2]) // 2
        x = F.pad(x, (margin[0], margin[0], margin[1], margin[1]))
        x = (x.float() - self.mean) / self.std
        return x.expand(-1, channels, -1, -1).contiguous(memory_format=LAYOUT[x.device.type]), images.y[index]

    def batches(self, images):
        """All images of a split, for evaluation: yields (x, y) as batch() returns them."""
        size = EVAL_BATCH[images.y.device.type]
        for start in range(0, len(images.y), size):
            yield self.batch(images, slice(start, start + size))


def choose(names, seed, tasks=None, ntasks=None, shuffled=True):
    """Names of the tasks to learn, in order: `tasks`, or all of them shuffled by seed; of these the first `ntasks`."""
    if tasks is None:
        order = np.arange(len(names))
        if shuffled:
            np.random.RandomState(seed).shuffle(order)
        tasks = [names[i] for i in order]
    unknown = [name for name in tasks if name not in names]
    if unknown or len(set(tasks)) < len(tasks):
        problem = f'unknown task {unknown[0]!r}' if unknown else f'a task stands twice in {",".join(tasks)!r}'
        raise UserError(f'--tasks: {problem} (the tasks are {", ".join(names)})')
    if ntasks is not None and ntasks > len(tasks):
        raise UserError(f'--ntasks: {ntasks} asked for, there are {len(tasks)} tasks')
    return tasks[:ntasks]


def make(data, shape, seed, ntrain=None):
    """The Task of a Dataset: at most `ntrain` training images (stratified), 15 % of them for validation, by seed."""
    x, y = data.train_x, data.train_y
    if ntrain is not None and ntrain < len(y):
        keep = stratified(y, ntrain, seeds.derive(seed, 'ntrain', data.name))
        x, y = x[keep], y[keep]
    n_valid = len(y) * VALID_PERCENT // 100
    if n_valid == 0:
        raise UserError(f'{data.name}: {len(y)} training images leave none for validation; at least 7 are needed')
    if len(data.test_y) == 0:
        raise UserError(f'{data.name}: there are no test images of its classes')
    order = np.arange(len(y))
    np.random.RandomState(seed).shuffle(order)
    x, test_x = torch.from_numpy(x), torch.from_numpy(data.test_x)
    return Task(
        name=data.name,
        n_classes=data.n_classes,
        shape=shape,
        mean=torch.tensor(data.mean).view(1, -1, 1, 1) * 255,
        std=torch.tensor(data.std).view(1, -1, 1, 1) * 255,
        train=_images(x, y, order[n_valid:]),
        valid=_images(x, y, order[:n_valid]),
        test=_images(test_x, data.test_y, np.arange(len(data.test_y))),
        fingerprint=data.fingerprint,
        pixels=None if data.pixels is None else torch.from_numpy(data.pixels),
    )


def subset(content, classes):
    """The images of consecutive classes (a range) of an npz.Content, labelled from 0, and its fingerprint."""
    cut = []
    for x, y in content[:2], content[2:4]:
        keep = (y >= classes.start) & (y < classes.stop)
        cut += [x[keep], y[keep] - classes.start]
    return *cut, content.fingerprint


def stratified(labels, n, seed):
    """Indices of `n` of the labels, drawn by seed in proportion to the classes; sorted."""
    order = np.random.Generator(np.random.PCG64(seed)).permutation(len(labels))
    share = np.empty(len(labels))  # of its class that is drawn up to this label
    for c in np.unique(labels):
        members = order[labels[order] == c]
        share[members] = (np.arange(len(members)) + 0.5) / len(members)
    return np.sort(order[np.argsort(share[order], kind='stable')[:n]])


def _images(x, y, index):
    return Images(x, torch.from_numpy(index), torch.from_numpy(y[index]))
