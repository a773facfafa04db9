"""A finished run, as its two files have it, and what it is a result of."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from approaches import APPROACHES
from core import results
from core.errors import UserError
from core.shapes import check, record_shape
from dataloaders import EXPERIMENTS
from reports.comparison import agree

PROTOCOL = 'nepochs', 'lr', 'batch_size', 'width', 'ntrain', 'tasks', 'ntasks'  # arguments that runs to compare share
TASK = 'n_classes', 'train', 'valid', 'test', 'data'  # what a record says of a task
ROUNDED = 0.51e-4  # so far may a .txt be from its .json


@dataclass(frozen=True)
class Result:
    approach: str
    txt: Path
    accuracy: np.ndarray  # (T, T)
    record: dict  # of the .json; {} where there is none

    @property
    def tasks(self):
        """Names, or numbers where no record says them."""
        numbers = [str(t + 1) for t in range(len(self.accuracy))]
        return [task['name'] for task in self.record.get('tasks', [])] or numbers

    @property
    def parameter(self):
        """All hyper-parameters: those that an older record does not have were what is the default now."""
        return defaults(self.approach) | self.record.get('arguments', {}).get('parameter', {})

    @property
    def diverged(self):
        """Where something was not finite, a list of {task, epoch}."""
        return self.record.get('diverged', [])

    @property
    def closed(self):
        """Tasks of hat that end with a layer all of whose gates are closed: (task, layers), a list."""
        layers = self.record.get('monitor', {}).get('closed', [])
        return [(task, each) for task, each in zip(self.tasks, layers, strict=False) if each]

    @cached_property
    def facts(self):
        """In what it must agree with the results beside it: name -> value, or a dict of values."""
        facts, arguments = {'number of tasks': len(self.accuracy)}, self.record.get('arguments', {})
        if not self.record:
            return facts
        if not arguments.get('ntasks') or arguments.get('tasks'):  # else they hang on the seed
            facts['set of tasks'] = sorted(self.tasks)
        facts |= {task['name']: {key: task.get(key) for key in TASK} for task in self.record.get('tasks', [])}
        if self.approach == 'random':  # whose numbers hang on the data alone
            return facts
        return facts | {key: arguments.get(key) for key in PROTOCOL} | {'versions': self.record.get('versions', {})}

    def like(self, other):
        """Have both learned the same tasks, in the same order and under the same protocol?"""
        return self.tasks == other.tasks and agree(self.facts, other.facts)


def defaults(approach):
    """Its hyper-parameters."""
    return {name: p.default for name, p in APPROACHES[approach].parameters.items()}


def load(txt, experiment, approach, seed):
    """The Result in a .txt; None if it is not finished: it has no record, and its last row is empty.

    Raises UserError where its two files are not what they should be.
    """
    accuracy, path = results.read_matrix(txt), txt.with_suffix('.json')
    names, record = task_names(experiment, len(accuracy), txt), results.load_record(path)
    if record:
        check(record, record_shape(record, len(accuracy), names, APPROACHES[approach].parameters), path)
        of = {'experiment': experiment, 'approach': approach, 'seed': seed}
        if other := [f'{key} {v}' for key, value in of.items() if (v := record['arguments'].get(key, value)) != value]:
            raise UserError(f'{path}: the record of a run of {", ".join(other)}')
        if np.abs(accuracy - record.get('accuracy', accuracy)).max() > ROUNDED:
            raise UserError(f'{txt}: not the accuracy matrix that is in {path.name}')
    return Result(approach, txt, accuracy, record) if record or accuracy[-1].any() else None


def task_names(experiment, n, txt):
    """Of the tasks that a run may have learned n of. Raises UserError."""
    module = EXPERIMENTS[experiment]
    if n <= len(module.NAMES):
        return module.NAMES
    if not hasattr(module, 'more_names'):
        raise UserError(f'{txt}: {n} tasks, and {experiment} has {len(module.NAMES)}')
    return module.more_names(n)
