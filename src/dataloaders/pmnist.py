"""pmnist: MNIST with its pixels permuted in ten ways (Srivastava et al. 2013; HAT, section 4.2). Each has its head."""

import numpy as np

from dataloaders import sources
from dataloaders.normalization import MNIST_28
from dataloaders.task import Dataset

FAMILY = 'mlp'
SHAPE = (1, 28, 28)
DEFAULTS = {}


def more_names(n):
    """Of n tasks."""
    return tuple(f'pmnist-{k}' for k in range(n))


NAMES = more_names(10)


def source(name):
    """The data set that a task is made of."""
    return 'mnist'


def read(names, folder, seed):
    """Permutation k is that of RandomState(k), whatever the seed; all share the images. Original: it depends on the
    seed that ran first."""
    content = sources.load(['mnist'], folder)['mnist']
    numbers = [int(name.removeprefix('pmnist-')) for name in names]
    pixels = [np.random.RandomState(k).permutation(28 * 28) for k in numbers]
    return [Dataset(name, 10, *MNIST_28, *content, p) for name, p in zip(names, pixels, strict=True)]
