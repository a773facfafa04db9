"""mixture: eight image data sets, all made 32x32x3 (paper, section 4, "Data")."""

from dataloaders import sources
from dataloaders.task import Dataset

FAMILY = 'alexnet'
SHAPE = (3, 32, 32)
DEFAULTS = {}  # the paper's protocol

_CIFAR = (125.3 / 255, 123.0 / 255, 113.9 / 255), (63.0 / 255, 62.1 / 255, 66.7 / 255)
NORMALIZATION = {  # mean and standard deviation, on the 0..1 scale; the order is the numbering of the tasks
    'cifar10': _CIFAR,
    'cifar100': _CIFAR,
    'mnist': ((0.1,), (0.2752,)),
    'svhn': ((0.4377, 0.4438, 0.4728), (0.198, 0.201, 0.197)),
    'fashion-mnist': ((0.2190,), (0.3318,)),
    'traffic-signs': ((0.3398, 0.3117, 0.3210), (0.2755, 0.2647, 0.2712)),
    'facescrub': ((0.5163, 0.5569, 0.4695), (0.2307, 0.2272, 0.2479)),
    'notmnist': ((0.4254,), (0.4501,)),
}
NAMES = tuple(NORMALIZATION)


def source(name):
    """The data set that a task is made of."""
    return name


def read(names, folder, seed):
    """Datasets of the given names; the same for every seed."""
    contents = sources.load(names, folder)
    return [Dataset(name, sources.SOURCES[name].n_classes, *NORMALIZATION[name], *contents[name]) for name in names]
