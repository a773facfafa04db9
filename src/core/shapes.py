"""The expected shapes of the .json files, to be checked when they are read.

A shape is a Kind of value; a list of values of one shape, [shape] or, of n values, [shape, n]; or a dict of shapes by
name, where '?' marks an optional name and ... stands for all other names.
"""

import json
import math
from collections.abc import Callable
from typing import NamedTuple

from core.errors import UserError


class Kind(NamedTuple):
    name: str
    accepts: Callable  # value -> bool

    def or_null(self):
        return Kind(f'{self.name} or null', lambda v: v is None or self.accepts(v))


TEXT = Kind('a text', lambda v: isinstance(v, str))
NUMBER = Kind('a number', lambda v: type(v) in (int, float) and math.isfinite(v))
AMOUNT = Kind('a number of at least 0', lambda v: NUMBER.accepts(v) and v >= 0)
POSITIVE = Kind('a number above 0', lambda v: NUMBER.accepts(v) and v > 0)
SHARE = Kind('a number from 0 to 1', lambda v: NUMBER.accepts(v) and 0 <= v <= 1)
WHOLE = Kind('a whole number', lambda v: type(v) is int and 0 <= v < 2**53)
POSITIVE_WHOLE = Kind('a whole number from 1 to 10,000', lambda v: WHOLE.accepts(v) and 1 <= v <= 10_000)
VALUE = Kind('a text or a number', lambda v: TEXT.accepts(v) or NUMBER.accepts(v))
TEXTS = Kind('a list of texts', lambda v: isinstance(v, list) and all(map(TEXT.accepts, v)))
PLAIN = Kind('a plain value', lambda v: v is None or isinstance(v, bool) or VALUE.accepts(v) or TEXTS.accepts(v))

ARGUMENTS = {  # of run.py
    'approach?': TEXT, 'experiment?': TEXT, 'network?': TEXT.or_null(), 'seed?': WHOLE, 'parameter?': {...: VALUE},
    ...: PLAIN,
}  # fmt: skip
IDENTITY = {  # what identifies a run, and what run.py prints of it
    'arguments?': ARGUMENTS,
    'tasks?': [{'name': TEXT, ...: PLAIN}],
    'classes?': {...: TEXTS},
    'accuracy?': [[SHARE]],
    'times?': {'total': AMOUNT},
}
VALIDATION = {  # for work.py
    'arguments': ARGUMENTS | {'parameter': {...: VALUE}},
    'valid_accuracy': [[SHARE.or_null()]],
    'diverged?': [{...: PLAIN}],
    'monitor?': {'closed?': [TEXTS]},
    'closed?': [TEXTS],
}
# By task
INPUTS = {...: {'image': [POSITIVE_WHOLE, 3], 'shape': [POSITIVE_WHOLE, 3], 'mean': [NUMBER], 'std': [POSITIVE]}}
PRUNING_REPORT = {  # of prune.py
    'run': ARGUMENTS, 'model?': TEXT, 'task': TEXT, 'accuracy': SHARE, 'weights': [POSITIVE, 2], 'bytes': [POSITIVE, 2],
    'milliseconds': {'1': [POSITIVE, 2], '256': [POSITIVE, 2], ...: Kind('absent', lambda v: False)},
    'parameters?': [WHOLE, 2], 'input?': {...: [NUMBER]}, 'versions?': {...: TEXT}, ...: PLAIN,
}  # fmt: skip


def record_shape(record, n, names, parameters):
    """The shape of the record of a run of n tasks, with names from `names`, or any if that is None; parameters: those
    its approach declares.

    A number that is not finite is null.
    """
    name = Kind(f'the name of one of the {len(names)} tasks', lambda v: v in names) if names else TEXT
    declared = {f'{key}?': TEXT if isinstance(p.default, str) else NUMBER for key, p in parameters.items()}
    monitor = record.get('monitor')
    weights = monitor.get('weights') if isinstance(monitor, dict) else None
    counts = [WHOLE, max(1, len(weights)) if isinstance(weights, list) else 1]  # one for each layer
    monitor_shape = {
        'weights': [POSITIVE, *counts[1:]],
        'active': [counts, n],
        'reuse': [[WHOLE, n], n],
        'capacity?': [counts, n],
        'closed?': [TEXTS, n],
    }
    epoch = {'valid_accuracy': SHARE.or_null(), 'train_loss?': NUMBER.or_null(), 'valid_loss?': NUMBER.or_null()}
    epoch |= {'active': counts, 'capacity': counts} if monitor else {}
    return {
        'arguments': ARGUMENTS | {'parameter?': declared | {...: VALUE}},
        'tasks?': [{'name': name, 'n_classes?': POSITIVE_WHOLE, ...: PLAIN}, n],
        'n_parameters?': PLAIN,
        'code?': PLAIN,
        'verified?': TEXTS,
        'rounded?': TEXTS,
        'folder?': TEXT,
        'pretrained?': TEXT,
        'weights?': TEXT.or_null(),
        'stored?': {...: WHOLE},
        'versions?': {...: TEXT},
        'devices?': TEXTS,
        'initial?': [SHARE, n],
        'before?': [SHARE, n],
        'accuracy?': [[SHARE, n], n],
        'valid_accuracy?': [[SHARE.or_null(), n], n],
        'epochs' if monitor else 'epochs?': [[epoch], n],
        'monitor?': monitor_shape if monitor else {},
        'closed?': [TEXTS, n],
        'times?': {'total': AMOUNT, 'epochs': [[AMOUNT], n]},
        'inputs?': INPUTS,
        'classes?': {...: TEXTS},
        'skipped?': {...: TEXTS},
        'diverged?': [{'task': TEXT, 'epoch': WHOLE, ...: PLAIN}],
    }


def check(value, shape, place):
    """Raises UserError, which names the place, unless the value has the shape."""
    if isinstance(shape, dict) and isinstance(value, dict):
        shapes = {key if key is ... else key.removesuffix('?'): inner for key, inner in shape.items()}
        if missing := [key for key in shape if key in shapes and key is not ... and key not in value]:
            raise UserError(f'{place}: {missing[0]} is missing')
        for key, inner_value in value.items():
            if (inner := shapes.get(key, shapes.get(...))) is not None:
                check(inner_value, inner, f'{place}: {key}')
    elif isinstance(shape, list) and isinstance(value, list) and shape[1:] in ([], [len(value)]):
        for k, element in enumerate(value, 1):
            check(element, shape[0], f'{place} {k}')
    elif not (isinstance(shape, Kind) and shape.accepts(value)):
        raise UserError(f'{place} is {_describe(value)}, not {_describe(shape, is_shape=True)}')


def _describe(value, is_shape=False):
    """A value or a shape, in a few words."""
    if isinstance(value, Kind):
        return value.name
    if isinstance(value, dict):
        return 'an object'
    if isinstance(value, list):
        return ' of '.join(['a list', *map(str, value[1:] if is_shape else [len(value)])])
    return json.dumps(value)[:40]
