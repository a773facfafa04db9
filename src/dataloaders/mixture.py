"""mixture: eight image data sets, all made 32x32x3 (paper, section 4, "Data")."""

from dataloaders.archives import sources
from dataloaders.archives.normalization import NORMALIZATION
from dataloaders.task import Dataset

FAMILY = 'alexnet'
SHAPE = (3, 32, 32)
DEFAULTS = {}  # the paper's protocol
NAMES = tuple(NORMALIZATION)  # in this order the tasks are numbered


def source(name):
    """The data set that a task is made of."""
    return name


def read(names, folder, seed):
    """Datasets of the given names; the same for every seed."""
    contents = sources.load(names, folder)
    return [Dataset(name, sources.SOURCES[name].n_classes, *NORMALIZATION[name], *contents[name]) for name in names]
