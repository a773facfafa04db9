"""pmnist: MNIST with its pixels permuted in ten ways (Srivastava et al. 2013; HAT, section 4.2). Each has its head."""

import numpy as np

from dataloaders.archives import sources
from dataloaders.archives.normalization import MNIST_28
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


def pixels(name):
    """Permutation k is that of RandomState(k), whatever the seed. Original: it depends on the seed that ran first."""
    return np.random.RandomState(int(name.removeprefix('pmnist-'))).permutation(28 * 28)


def read(names, folder, seed):
    """All share the images."""
    content = sources.load(['mnist'], folder)['mnist']
    return [Dataset(name, 10, *MNIST_28, *content, pixels(name)) for name in names]
