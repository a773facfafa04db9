"""The one place that knows what a result file looks like, and the figures of merit that are computed from one.

<name>.txt   accuracy matrix, one row after each task: row t, column tau <= t is the test accuracy of task tau after
             task t; text as numpy.savetxt writes it with '%.4f'; the part above the diagonal is 0
<name>.json  the rest; written last, so its presence means: finished
"""

import json
import tempfile
from pathlib import Path

import numpy as np

from errors import UserError
from files import atomic, sweep


class Output:
    """The two files of one run, <base>.txt and <base>.json."""

    def __init__(self, path):
        if Path(path).is_dir():
            raise UserError(f'--output: {path} is a folder; give a file name')
        base = str(path).removesuffix('.txt')
        self.txt, self.json = Path(f'{base}.txt'), Path(f'{base}.json')

    def check(self):
        """Raises UserError where nothing can be written: to be called before any work is done."""
        try:
            with tempfile.TemporaryFile(dir=self.txt.parent):
                pass
        except OSError as error:
            raise UserError(f'cannot write in {self.txt.parent}: {error.strerror}') from error

    def finished(self, arguments):
        """Is there the finished result of a run with these arguments (a dict that JSON can hold)?"""
        record = read_record(self.json)
        return record.get('arguments') == json.loads(json.dumps(arguments)) and self.txt.exists()

    def make_way(self):
        """No result is lost: what stands here is kept, as <base>.old-1, .old-2 ..."""
        n = 1
        while any(_old(path, n).exists() for path in (self.txt, self.json)):
            n += 1
        for path in self.txt, self.json:
            if path.exists():
                path.rename(_old(path, n))
                print(f'{path} was there already: kept as {_old(path, n).name}', flush=True)

    def sweep(self):
        """Remove the temporary files of killed processes."""
        sweep(self.txt)
        sweep(self.json)

    def save_matrix(self, accuracy):
        with atomic(self.txt) as part:
            np.savetxt(part, accuracy, '%.4f')

    def save_record(self, record):
        with atomic(self.json) as part:
            part.write_text(json.dumps(record, indent=1) + '\n')


def _old(path, n):
    return path.with_name(f'{path.stem}.old-{n}{path.suffix}')


def read_record(path):
    """The content of a .json, {} where there is none that can be read."""
    try:
        record = json.loads(Path(path).read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def read_matrix(path):
    """The accuracy matrix of a .txt, (T, T). Raises UserError."""
    try:
        accuracy = np.loadtxt(path, ndmin=2)
    except (OSError, ValueError) as error:
        raise UserError(f'{path}: cannot be read as an accuracy matrix: {error}') from error
    if accuracy.shape[0] != accuracy.shape[1]:
        raise UserError(f'{path}: {accuracy.shape[0]} rows of {accuracy.shape[1]} are not an accuracy matrix')
    return accuracy


def square(rows, n_tasks):
    """The accuracy matrix, (T, T), of so many rows as there are yet, row t with t + 1 accuracies."""
    accuracy = np.zeros((n_tasks, n_tasks))
    for t, row in enumerate(rows):
        accuracy[t, : t + 1] = row
    return accuracy


def average_accuracy(accuracy):
    """Mean over all tasks of the accuracy after the last one."""
    return float(accuracy[-1].mean())


def average_forgetting(accuracy):
    """Mean over all tasks but the last of the drop from when it was learned to the end; 0 for a single task."""
    drop = accuracy.diagonal() - accuracy[-1]
    return float(drop[:-1].mean()) if len(drop) > 1 else 0.0


def forgetting_ratio(accuracy, joint, random):
    """rho<=t for t = 1 .. T, (T,), from three accuracy matrices of the same tasks (HAT, Eq. 6).

        rho(tau <= t) = (A(tau <= t) - A_R(tau <= t)) / (A_J(tau <= t) - A_R(tau <= t)) - 1

    and rho<=t is its mean over tau = 1 .. t: 0 is as good as joint training, -1 no better than chance.
    """
    rows = zip(accuracy, joint, random, strict=True)
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
