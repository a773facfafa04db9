"""The experiments, by name. Each module has

NAMES         the tasks; their order numbers them
FAMILY        of the network: alexnet or mlp
SHAPE         of its input (channels, height, width)
DEFAULTS      of run.py, where they differ from the paper's
source(name)  the data set that a task is made of, <source>.npz; a module without files has FINGERPRINT instead
read(names, folder, seed) -> list of Dataset

and, where it applies,

SHUFFLED       False: the tasks keep their order
SETS           data sets that sources.py does not know: name -> number of classes
more_names(n)  the names of n tasks, where there can be more than NAMES
OPTIONS        the options of run.py that it alone takes (options.py), and
use(folder, **options)  called when they are known: then NAMES and SHAPE may depend on the folder and on them
notes(names)   more entries for the record, of these tasks, such as `classes`, names by task
pixels(name)   a permutation of the pixels of a task's images

A new experiment is a file and an entry here (README.md).
"""

from pathlib import Path

from dataloaders import cifar, demo, folder, mixture, mnist2, npz, pmnist, task

EXPERIMENTS = {
    'mixture': mixture,
    'cifar': cifar,
    'pmnist': pmnist,
    'mnist2': mnist2,
    'demo': demo,
    'folder': folder,
}


PAPER = {'nepochs': 200, 'width': 1.0, 'threads': None}  # what an experiment's DEFAULTS may change


def defaults(experiment):
    return PAPER | EXPERIMENTS[experiment].DEFAULTS


def load(experiment, folder, seed, tasks=None, ntasks=None, ntrain=None):
    """The tasks of an experiment, a list of Task, in the order in which they are learned.

    tasks   names of tasks; default: all, shuffled by seed
    ntasks  only so many of them
    ntrain  at most so many training images a task, validation included
    """
    module, names = EXPERIMENTS[experiment], ordered(experiment, seed, tasks, ntasks)
    return [task.make(data, module.SHAPE, seed, ntrain) for data in module.read(names, folder, seed)]


def ordered(experiment, seed, tasks=None, ntasks=None):
    """The names of the tasks of load()."""
    module = EXPERIMENTS[experiment]
    names = module.NAMES
    if hasattr(module, 'more_names') and ntasks and ntasks > len(names):
        names = module.more_names(ntasks)
    return task.choose(names, seed, tasks, ntasks, getattr(module, 'SHUFFLED', True))


def fingerprints(experiment, folder, tasks):
    """Of the data of tasks (names): name -> text, None where there is no file. They are not read for it."""
    module = EXPERIMENTS[experiment]
    if not hasattr(module, 'source'):
        return dict.fromkeys(tasks, module.FINGERPRINT)
    return {name: npz.fingerprint(Path(folder) / f'{module.source(name)}.npz') for name in tasks}
