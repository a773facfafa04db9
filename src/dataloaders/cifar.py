"""cifar: CIFAR-10 in 5 tasks of 2 classes, CIFAR-100 in 5 tasks of 20 classes (HAT, section 4.2)."""

from dataloaders.archives import sources
from dataloaders.archives.normalization import NORMALIZATION
from dataloaders.task import Dataset, subset

FAMILY = 'alexnet'
SHAPE = (3, 32, 32)
DEFAULTS = {}
TASKS = {f'{name}-{k}': (name, k, n) for name, n in (('cifar10', 2), ('cifar100', 20)) for k in range(5)}
NAMES = tuple(TASKS)


def source(name):
    """The data set that a task is made of."""
    return TASKS[name][0]


def read(names, folder, seed):
    """Task k has the classes of label // n == k. The same for every seed."""
    contents = sources.load(sorted({source(name) for name in names}), folder)
    datasets = []
    for name in names:
        whole, _, n = TASKS[name]
        datasets.append(Dataset(name, n, *NORMALIZATION[whole], *subset(contents[whole], classes(name))))
    return datasets


def classes(name):
    """Of a task, as the whole set numbers them."""
    _, k, n = TASKS[name]
    return range(k * n, (k + 1) * n)


def notes(names):
    """For the record of a run: the numbers of the classes in the whole set, not in the task."""
    return {'classes': {name: [str(c) for c in classes(name)] for name in names}}
