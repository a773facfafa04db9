"""Do published results hold for today's code? A short run by the code that computed them and by today's tells.

It must give the same accuracies and the same numbers of each epoch, bit for bit; or else, in double precision and a
narrow network, the same to CLOSE, and in the first epoch of single precision, before rounding has grown, the same to
ROUNDED: such code differs in rounding only.

The run has the arguments of the results, but few images and epochs, and three tasks: the third one shows what a method
accumulates over the tasks, such as EWC's Fisher information. A second run, of one task in a narrow network, continues
until training stops, for up to 200 epochs: it shows when the learning rate falls and when training stops. If rounding
differs, it must have the same learning rates in double precision.
"""

import json
import operator
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

from approaches import APPROACHES
from approaches.common.training import DEPARTURES
from core import results
from core.errors import UserError, last_words
from core.files import ROOT
from core.hyperparameters import show
from reports import setups
from reports.addition import write_record

SHORT = {'seed': 0, 'ntasks': 3, 'ntrain': 300, 'nepochs': 12}  # arguments
NARROW = 0.25  # width
WHOLE = {'ntasks': 1, 'ntrain': 100, 'nepochs': 200}  # of the second run, in place of those of SHORT
CLOSE, ROUNDED = 1e-6, 1e-3  # relative, or absolute below 1
SAME, BUT_ROUNDING, OTHER = 'the same', 'the same but for rounding', 'not the same'
NUMBERS = 'accuracy', 'valid_accuracy', 'initial', 'before'  # of a record
SINGLE = 'import run; run.sys.exit(run.cli())'
DOUBLE = f'import torch; torch.set_default_dtype(torch.float64); torch.Tensor.float = torch.Tensor.double; {SINGLE}'


class Short(NamedTuple):
    """What a short run gives."""

    code: str  # the fingerprint of its code
    numbers: list  # the log of each epoch, but for what diverged in it, and the NUMBERS of its record
    stored: dict  # what it says that it stores: name -> bytes


def verify(checkout, data):
    """Accept results of the code in a checkout that today's code would compute, too. Prints a line for all results
    whose arguments differ in those of SHORT only.

    Their records then list the fingerprint of today's code under `verified`, or under `rounded` if the last bits
    differ; `commit` stays that of the code that ran. `stored` is left out where today's code stores something else.
    """
    if not (checkout / 'src' / 'run.py').is_file():
        raise UserError(f'--verify: {checkout} is not a checkout of this repository')
    stale = {}
    for setup in setups.load_all():
        for result in setup.collection.all():
            if setup.collection.stale(result):
                arguments = result.record['arguments'] | SHORT | {'ntasks': min(SHORT['ntasks'], len(result.tasks))}
                stale.setdefault(json.dumps(arguments), (arguments, []))[1].append(result.txt.with_suffix('.json'))
    for arguments, paths in stale.values():
        name = title(arguments)
        try:
            there = short_run(checkout, arguments, data)
        except UserError as error:  # such as an approach that it does not have
            print(f'{name}: {error}', flush=True)
            continue
        records = {path: results.load_record(path) for path in paths}
        known = {path: [record['code'], *record.get('verified', [])] for path, record in records.items()}
        records = {p: r for p, r in records.items() if there.code in (*known[p], *r.get('rounded', []))}
        if not records:
            continue
        here = short_run(ROOT, arguments, data)
        verdict = compare(checkout, arguments, data, there.numbers, here.numbers)
        for path, record in records.items():
            key = 'verified' if verdict == SAME and there.code in known[path] else 'rounded'
            if here.stored != there.stored or record.get('stored', {}).keys() != here.stored.keys():
                record.pop('stored', None)
            if verdict != OTHER:
                write_record(path, record | {key: [*record.get(key, []), here.code]})
        print(f'{name}, {len(records)} results: {verdict}', flush=True)


def compare(checkout, arguments, data, there, here):
    """SAME, BUT_ROUNDING or OTHER, from the numbers of the short runs by the code there and here, and more runs."""

    def both(more, program=SINGLE):
        return [short_run(tree, arguments | more, data, program).numbers for tree in (checkout, ROOT)]

    narrow = {} if arguments.get('network') else {'width': NARROW}
    if there == here and operator.eq(*both(WHOLE | narrow)):
        return SAME
    rounded = (
        close(first_losses(there), first_losses(here), ROUNDED)
        and close(*both(narrow, DOUBLE), CLOSE)
        and operator.eq(*map(rates, both(WHOLE | narrow, DOUBLE)))
    )
    return BUT_ROUNDING if rounded else OTHER


def title(arguments):
    """Names approach, experiment, width, and what is not a default."""
    approach, experiment, width = (arguments[name] for name in ('approach', 'experiment', 'width'))
    default, chosen = APPROACHES[approach].defaults(), arguments.get('parameter', {})
    more = [show({name: value}) for name, value in chosen.items() if value != default.get(name)]
    more += [str(arguments[name]) for name in ('network', *DEPARTURES) if arguments.get(name)]
    return ', '.join([f'{approach} on {experiment}', f'width {width:g}', *more])


def short_run(tree, arguments, data, program=SINGLE):
    """The Short run by the code in a checkout."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder, 'run.txt')
        _, _, *which = shlex.split(results.command({'arguments': arguments}))
        places = ['--data', data.resolve(), '--output', output, '--tmp', folder, '--device', 'cpu', '--threads', '1']
        command = [sys.executable, '-c', program, *which, *places]
        try:
            done = subprocess.run(command, cwd=tree / 'src', capture_output=True, text=True)
        except OSError as error:
            raise UserError(f'{tree}: {error.strerror}') from error
        if done.returncode:
            raise UserError(f'{tree}: {last_words(done.stderr, done.returncode)}')
        record = results.load_record(output.with_suffix('.json'))
        epochs = [[dict(epoch, diverged=None) for epoch in log] for log in record['epochs']]
        return Short(record['code'], [epochs, *(record[name] for name in NUMBERS)], record.get('stored', {}))


def first_losses(numbers):
    """Of the first epoch of the first task; [] if nothing is trained."""
    return [[epoch['train_loss'], epoch['valid_loss']] for epoch in numbers[0][0][:1]]


def rates(numbers):
    """The learning rate of each epoch."""
    return [epoch['lr'] for log in numbers[0] for epoch in log]


def close(a, b, tolerance):
    """Are the numbers in two nests of lists and dicts alike, and all else equal?"""
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key], tolerance) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(close(*each, tolerance) for each in zip(a, b, strict=True))
    if isinstance(a, float) and isinstance(b, float):
        return bool(np.isclose(a, b, rtol=tolerance, atol=tolerance))
    return a == b
