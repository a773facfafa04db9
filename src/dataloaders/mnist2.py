"""mnist2: the digits 0 to 4, then the digits 5 to 9 (Lee et al. 2017; HAT, section 4.2)."""

from dataloaders.archives import sources
from dataloaders.archives.normalization import MNIST_28
from dataloaders.task import Dataset, subset

FAMILY = 'mlp'
SHAPE = (1, 28, 28)
DEFAULTS = {}
TASKS = {'mnist-0-4': range(5), 'mnist-5-9': range(5, 10)}
NAMES = tuple(TASKS)
SHUFFLED = False  # always in this order


def source(name):
    """The data set that a task is made of."""
    return 'mnist'


def read(names, folder, seed):
    """The same for every seed."""
    mnist = sources.load(['mnist'], folder)['mnist']
    return [Dataset(name, 5, *MNIST_28, *subset(mnist, TASKS[name])) for name in names]


def notes(names):
    """For the record of a run: the digits."""
    return {'classes': {name: [str(digit) for digit in TASKS[name]] for name in names}}
