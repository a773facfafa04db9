"""The experiments, by name. README.md ("Add an experiment") says what each module has."""

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
    """The names of the tasks of load(), in their order."""
    module = EXPERIMENTS[experiment]
    names = module.NAMES
    if hasattr(module, 'more_names') and ntasks and ntasks > len(names):
        names = module.more_names(ntasks)
    return task.choose(names, seed, tasks, ntasks, getattr(module, 'SHUFFLED', True))


def fingerprints(experiment, folder, tasks):
    """The fingerprint of the data of each task: name -> text, or None where there is no file. No image is read."""
    module = EXPERIMENTS[experiment]
    if not hasattr(module, 'source'):
        return dict.fromkeys(tasks, module.FINGERPRINT)
    return {name: npz.fingerprint(Path(folder) / f'{module.source(name)}.npz') for name in tasks}
