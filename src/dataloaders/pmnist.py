"""pmnist: MNIST with its pixels permuted in ten ways (Srivastava et al. 2013; HAT, section 4.2). Each has its head."""

import numpy as np

from dataloaders import sources
from dataloaders.mnist2 import FAMILY, NORMALIZATION, SHAPE
from dataloaders.task import Dataset

__all__ = ['DEFAULTS', 'FAMILY', 'NAMES', 'SHAPE', 'read']

DEFAULTS = {}
NAMES = tuple(f'pmnist-{k}' for k in range(10))


def read(names, folder, seed):
    """Permutation k is that of RandomState(k), whatever the seed. Original: it hangs on the seed that ran first."""
    train_x, train_y, test_x, test_y = sources.load(['mnist'], folder)['mnist']
    datasets = []
    for name in names:
        permutation = np.random.RandomState(int(name.removeprefix('pmnist-'))).permutation(28 * 28)
        train, test = (x.reshape(len(x), -1)[:, permutation].reshape(x.shape) for x in (train_x, test_x))
        datasets.append(Dataset(name, 10, *NORMALIZATION, train, train_y, test, test_y))
    return datasets
