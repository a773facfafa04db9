"""The one place that knows what a result file looks like, and the figures of merit that are computed from one.

<name>.txt   accuracy matrix, one row after each task: row t, column tau <= t is the test accuracy of task tau after
             task t; text as numpy.savetxt writes it with '%.4f'; the part above the diagonal is 0
<name>.pt    if asked for (run.py --save), the approach in the end: the network and what it knows of its tasks
<name>.json  the rest; written last, so its presence means: finished
"""

import json
import math
import os
import shlex
import tempfile
import warnings
from pathlib import Path

import numpy as np

from core.errors import UserError, one_line
from core.files import atomic, digest, pack, sweep
from core.hyperparameters import show
from core.shapes import HEAD, check

LARGEST = 50e6  # bytes of a file that is read


class Output:
    """The files of one run, <base>.txt, <base>.json and, if it is to be saved, <base>.pt."""

    def __init__(self, path, save=False):
        path = Path(path)
        if path.is_dir() or path.exists() and not path.is_file():
            raise UserError(f'--output: {path} is {"a folder" if path.is_dir() else "no file"}; give a file name')
        if path.suffix in ('.json', '.pt', '.log'):
            raise UserError(f'--output: {path} is for the accuracy matrix, a .txt; the rest goes beside it')
        base = str(path).removesuffix('.txt')
        self.txt, self.json = Path(f'{base}.txt'), Path(f'{base}.json')
        self.model = Path(f'{base}.pt') if save else None

    @property
    def files(self):
        return [path for path in (self.txt, self.model, self.json) if path]

    def check(self):
        """Raises UserError where nothing can be written: to be called before any work is done."""
        try:
            with tempfile.TemporaryFile(dir=self.txt.parent):
                pass
        except OSError as error:
            raise UserError(f'cannot write in {self.txt.parent}: {error.strerror}') from error

    def finished(self, identity, stale=None):
        """Is there the finished result of this run (identity.Identity)? With stale='redo', one of today's code?"""
        record = read_record(self.json)
        n = len(record.get('tasks', []))
        whole = n and 'times' in record and [len(row) for row in record.get('accuracy', [])] == [n] * n
        there = whole and not identity.differences(record) and all(path.exists() for path in self.files)
        return bool(there) and not (stale == 'redo' and self.stale(identity))

    def stale(self, identity):
        """Has other code computed the result that is there?"""
        return read_record(self.json).get('code') != identity.code

    def make_way(self, identity=None):
        """No result is lost: what stands here is kept, as <base>.old-1, .old-2 ... Says in what it is another run's."""
        record = read_record(self.json)
        if record and identity and (differ := identity.differences(record)):
            print(f'{self.json} is of another run: {"; ".join(differ)}', flush=True)
        n, paths = 1, [self.txt.with_suffix(suffix) for suffix in ('.txt', '.pt', '.json')]
        while any(_old(path, n).exists() for path in paths):
            n += 1
        for path in paths:
            if path.exists():
                path.rename(_old(path, n))
                print(f'{path} was there already: kept as {_old(path, n).name}', flush=True)

    def sweep(self):
        """Remove the temporary files of killed processes."""
        for path in self.files:
            sweep(path)

    def save_matrix(self, accuracy):
        with atomic(self.txt) as part:
            np.savetxt(part, accuracy, '%.4f')

    def save_model(self, state):
        """state: of approaches.base.Approach.state(). Returns what the record is to say of it."""
        if not self.model:
            return {}
        content = pack(state)
        with atomic(self.model) as part:
            part.write_bytes(content)
        return {'model': digest(content).hex()}

    def save_record(self, record):
        with atomic(self.json) as part:
            part.write_text(json_text(record), encoding='utf-8')


def _old(path, n):
    return path.with_name(f'{path.stem}.old-{n}{path.suffix}')


def json_text(content):
    """Strict JSON: numbers that are not finite are null."""

    def strict(value):
        if isinstance(value, dict):
            return {key: strict(each) for key, each in value.items()}
        if isinstance(value, (list, tuple)):
            return [strict(each) for each in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(strict(content), indent=1, allow_nan=False) + '\n'


def read_record(path):
    """The content of a .json, {} where there is none that can be read and says, if anything, what run it is of."""
    try:
        check(record := load_record(path), HEAD, path)
        return record
    except UserError:
        return {}


def load_record(path):
    """The content of a .json, {} where there is none. Raises UserError. Numbers that are not finite are None."""
    if not os.path.exists(path):
        return {}
    try:
        record = json.loads(read_text(path), parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: cannot be read as JSON: {one_line(error)}') from error
    if not isinstance(record, dict):
        raise UserError(f'{path}: not the record of a run')
    return record


def read_text(path):
    """The content of a file of results. Raises UserError."""
    try:
        if not os.path.isfile(path):
            raise UserError(f'{path}: not a file')
        if (size := os.stat(path).st_size) > LARGEST:
            raise UserError(f'{path}: {size / 1e6:.0f} MB: too large for a result, not read')
        return Path(path).read_text(encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: cannot be read as text: {one_line(error)}') from error


def command(record):
    """The command of a run, from what its record says."""
    words = ['python src/run.py']
    for name, value in (record.get('arguments', {}) | {'data': record.get('folder')}).items():
        value = show(value) if name == 'parameter' else ','.join(value) if isinstance(value, list) else value
        words += [f'--{name.replace("_", "-")} {shlex.quote(str(value))}'] if value not in (None, '') else []
    return ' '.join(words)


def make_folder(path):
    """Make a folder, if it is not there. Raises UserError where nothing can be written in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f'cannot write in {path}: {error.strerror}') from error


def pruned_folder(path):
    """Where prune.py puts the networks made of the result `path`, a .json."""
    return path.with_name(f'{path.stem}_pruned')


def read_matrix(path):
    """The accuracy matrix of a .txt, (T, T). Raises UserError."""
    lines = read_text(path).splitlines()
    try:
        with warnings.catch_warnings(action='ignore'):  # of an empty file, which is refused below
            accuracy = np.loadtxt(lines, ndmin=2)
    except ValueError as error:
        raise UserError(f'{path}: cannot be read as an accuracy matrix: {one_line(error)}') from error
    if accuracy.shape[0] != accuracy.shape[1]:
        raise UserError(f'{path}: {accuracy.shape[0]} rows of {accuracy.shape[1]} are not an accuracy matrix')
    if not (inside := (accuracy >= 0) & (accuracy <= 1)).all():
        raise UserError(f'{path}: {accuracy[~inside][0]:g} is no accuracy, which is from 0 to 1')
    return accuracy


def square(rows, n_tasks):
    """The accuracy matrix, (T, T), of so many rows as there are yet, row t with t + 1 accuracies."""
    accuracy = np.zeros((n_tasks, n_tasks))
    for t, row in enumerate(rows):
        accuracy[t, : t + 1] = row
    return accuracy


def average_accuracies(accuracy):
    """A<=t for t = 1 .. T, (T,): the mean accuracy of tasks 1 .. t after learning task t."""
    return np.array([accuracy[t, : t + 1].mean() for t in range(len(accuracy))])


def average_forgetting(accuracy):
    """Mean over all tasks but the last of the drop from when it was learned to the end; 0 for a single task."""
    return 0.0 - backward_transfer(accuracy)  # never -0.0


def backward_transfer(accuracy):
    """BWT (Lopez-Paz & Ranzato 2017, Eq. 3), from R, the accuracy matrix of T tasks; 0 for a single task.

    BWT = 1 / (T - 1) * sum over i = 1 .. T - 1 of (R[T, i] - R[i, i])
    """
    gain = accuracy[-1] - accuracy.diagonal()
    return float(gain[:-1].mean()) if len(gain) > 1 else 0.0


def forward_transfer(before, initial):
    """FWT (Lopez-Paz & Ranzato 2017, Eq. 4); 0 for a single task.

    FWT = 1 / (T - 1) * sum over i = 2 .. T of (R[i - 1, i] - b[i])

    before   R[i - 1, i], the test accuracy of each task when those before it have been learned and it has not, (T,)
    initial  b[i], that of the network with its initial weights, (T,)

    With a head for each task, an unlearned one answers at random: FWT is then near 0 by the protocol, whoever learns.
    """
    gain = np.subtract(before, initial)
    return float(gain[1:].mean()) if len(gain) > 1 else 0.0


def forgetting_ratio(accuracy, joint, random):
    """rho<=t for t = 1 .. T, (T,), from three accuracy matrices of the same tasks (HAT, Eq. 6).

        rho(tau <= t) = (A(tau <= t) - A_R(tau <= t)) / (A_J(tau <= t) - A_R(tau <= t)) - 1

    and rho<=t is its mean over tau = 1 .. t: 0 is as good as joint training, -1 no better than chance; nan or infinite
    where joint training itself is no better.
    """
    rows = zip(accuracy, joint, random, strict=True)
    with np.errstate(divide='ignore', invalid='ignore'):
        return np.array([((a[:t] - r[:t]) / (j[:t] - r[:t]) - 1).mean() for t, (a, j, r) in enumerate(rows, 1)])


def table(names, accuracy):
    """The accuracy matrix in %, with task names, as text."""
    corner = 'test accuracy in %'
    width = max(len(corner), *(len(f'after {name}') for name in names))
    lines = [f'{corner:{width}}  ' + '  '.join(f'{name:>6}' for name in names)]
    for t, name in enumerate(names):
        cells = (f'{100 * a:{max(6, len(names[u]))}.2f}' for u, a in enumerate(accuracy[t, : t + 1]))
        lines.append(f'{f"after {name}":{width}}  {"  ".join(cells)}')
    return '\n'.join(lines)
