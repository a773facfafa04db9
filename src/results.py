"""The one place that knows what a result file looks like, and the figures of merit that are computed from one.

<name>.txt   accuracy matrix, one row after each task: row t, column tau <= t is the test accuracy of task tau after
             task t; text as numpy.savetxt writes it with '%.4f'; the part above the diagonal is 0
<name>.pt    if asked for (run.py --save), the approach in the end: the network and what it knows of its tasks
<name>.json  the rest; written last, so its presence means: finished
"""

import json
import shlex
import tempfile
from pathlib import Path

import numpy as np

from approaches.parameters import show
from errors import UserError
from files import atomic, pack, sweep


class Output:
    """The files of one run, <base>.txt, <base>.json and, if it is to be saved, <base>.pt."""

    def __init__(self, path, save=False):
        if Path(path).is_dir():
            raise UserError(f'--output: {path} is a folder; give a file name')
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

    def finished(self, arguments):
        """Is there the finished result of a run with these arguments (a dict that JSON can hold)?"""
        record = read_record(self.json)
        same = record.get('arguments') == json.loads(json.dumps(arguments))
        return same and all(path.exists() for path in self.files)

    def make_way(self):
        """No result is lost: what stands here is kept, as <base>.old-1, .old-2 ..."""
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
        """state: of approaches.base.Approach.state()."""
        if self.model:
            with atomic(self.model) as part:
                part.write_bytes(pack(state))

    def save_record(self, record):
        with atomic(self.json) as part:
            part.write_text(json.dumps(record, indent=1) + '\n', encoding='utf-8')


def _old(path, n):
    return path.with_name(f'{path.stem}.old-{n}{path.suffix}')


def read_record(path):
    """The content of a .json, {} where there is none that can be read."""
    try:
        record = json.loads(Path(path).read_text(encoding='utf-8'))
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def command(arguments):
    """The command of a run, from what its record says of its arguments."""
    words = ['python src/run.py']
    for name, value in arguments.items():
        value = show(value) if name == 'parameter' else ','.join(value) if isinstance(value, list) else value
        words += [f'--{name.replace("_", "-")} {shlex.quote(str(value))}'] if value not in (None, '') else []
    return ' '.join(words)


def pruned_folder(path):
    """Where prune.py puts the networks made of the result `path`, a .json."""
    return path.with_name(f'{path.stem}_pruned')


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
