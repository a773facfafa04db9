"""The result of a finished run, from its two files, and the facts in which it must agree with others in a table."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from approaches import APPROACHES
from approaches.common.training import DEPARTURES
from core import results
from core.comparison import agree
from core.errors import UserError
from core.hyperparameters import show
from core.shapes import check, record_shape
from dataloaders import EXPERIMENTS
from dataloaders.options import is_own
from runs.identity import of_task

# Arguments in which runs must agree
CHOICE = 'tasks', 'ntasks'
PROTOCOL = 'nepochs', 'lr', 'batch_size', *DEPARTURES, 'network', 'width', 'size', 'ntrain', *CHOICE
TASK = 'n_classes', 'train', 'valid', 'test', 'data'  # entries of a task in a record


@dataclass(frozen=True)
class Result:
    approach: str
    txt: Path
    accuracy: np.ndarray  # (T, T)
    record: dict  # of the .json; {} if there is none
    may_differ: tuple = ()  # names of facts

    @property
    def tasks(self):
        """Their names; without a record, numbers."""
        numbers = [str(t + 1) for t in range(len(self.accuracy))]
        return [task['name'] for task in self.record.get('tasks', [])] or numbers

    @property
    def parameter(self):
        """All hyper-parameters; those that an older record lacks had what is the default now."""
        return APPROACHES[self.approach].defaults() | self.record.get('arguments', {}).get('parameter', {})

    @property
    def chosen(self):
        """The hyper-parameters that are not the defaults, as text, or 'defaults'."""
        defaults = APPROACHES[self.approach].defaults()
        others = {name: value for name, value in self.parameter.items() if value != defaults.get(name)}
        return show(others) or 'defaults'

    @property
    def diverged(self):
        """Where a run diverged, a list of {task, epoch, what}: what was not finite, or 'no progress'."""
        return self.record.get('diverged', [])

    @property
    def closed(self):
        """(task, layers) for each task of HAT that ended with layers all of whose gates are closed."""
        pairs = zip(self.tasks, closed(self.record), strict=False)
        return [(task, layers) for task, layers in pairs if layers]

    @cached_property
    def facts(self):
        """In what it must agree with the results beside it: name -> value, or a dict of values."""
        facts, arguments = {'number of tasks': len(self.accuracy)}, self.record.get('arguments', {})
        if not self.record:
            return facts
        # The first ntasks depend on the seed
        of_seed = f' of seed {arguments.get("seed")}' if arguments.get('ntasks') and not arguments.get('tasks') else ''
        facts[f'set of tasks{of_seed}'] = sorted(self.tasks)
        facts |= {of_task(task['name']): {key: task.get(key) for key in TASK} for task in self.record.get('tasks', [])}
        if self.approach == 'random':  # depends on the data only, and on which tasks these are
            return facts | {key: arguments.get(key) for key in CHOICE}
        protocol = {key: arguments.get(key) for key in PROTOCOL}
        facts |= protocol | {key: self.record.get(key) for key in ('weights', 'versions')}
        return {name: fact for name, fact in facts.items() if name not in self.may_differ}

    def like(self, other):
        """Have both learned the same tasks, in the same order and under the same protocol?"""
        return self.tasks == other.tasks and agree(self.facts, other.facts)


def load(txt, experiment, approach, seed, may_differ=()):
    """The Result in a .txt; None if it is not finished: it has no record, and its last row is empty.

    Raises UserError if its two files are damaged or do not belong together.
    """
    accuracy, path = results.read_matrix(txt), txt.with_suffix('.json')
    names, record = task_names(experiment, len(accuracy), txt), results.load_record(path)
    if record:
        check(record, record_shape(record, len(accuracy), names, APPROACHES[approach].parameters), path)
        asked = {'experiment': experiment, 'approach': approach, 'seed': seed}
        arguments = asked | record['arguments']
        if other := [f'{key} {arguments[key]}' for key in asked if arguments[key] != asked[key]]:
            raise UserError(f'{path}: the record of a run of {", ".join(other)}')
        exact = np.array(record.get('accuracy', accuracy))
        if not results.same_matrix(accuracy, exact):
            raise UserError(f'{txt}: not the accuracy matrix that is in {path.name}')
        accuracy = exact  # four digits may round to another table cell: 0.65354 is 65.4 %, 0.6535 is not
    return Result(approach, txt, accuracy, record, may_differ) if record or accuracy[-1].any() else None


def task_names(experiment, n, txt):
    """The names from which a run may have learned n tasks; None: any names. Raises UserError."""
    module = EXPERIMENTS[experiment]
    if is_own(experiment):
        return None
    if n <= len(module.NAMES):
        return module.NAMES
    if not hasattr(module, 'more_names'):
        raise UserError(f'{txt}: {n} tasks, and {experiment} has {len(module.NAMES)}')
    return module.more_names(n)


def validation(record):
    """What a sweep chooses by: mean validation accuracy over all tasks after the last; -inf if a run has diverged."""
    mean = np.mean(np.array(record['valid_accuracy'][-1], float))  # null is nan
    return -np.inf if np.isnan(mean) else float(mean)


def preference(parameter, record, defaults):
    """The key by which a sweep sorts its points, the best last: mean validation accuracy; of equal ones those that are
    not flagged, then those with the most default values, then those with the smallest values.

    parameter  of the record, name -> value; those that an older record lacks had what is the default now
    """
    parameter = defaults | parameter
    usual = sum(parameter[name] == value for name, value in defaults.items())
    smallest = [-value for value in parameter.values() if not isinstance(value, str)]
    return validation(record), not flagged(record), usual, smallest


def flagged(record):
    """Has a task diverged, or closed all gates of a layer?"""
    return bool(record.get('diverged')) or any(closed(record))


def closed(record):
    """For each task of HAT, the layers all of whose gates were closed at its end; [] if a record does not say. In
    .results/, whose records have no `monitor`, it is an entry of the record itself."""
    return record.get('closed') or record.get('monitor', {}).get('closed', [])
