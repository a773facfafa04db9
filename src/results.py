"""The one place that knows what a result file looks like.

<name>.txt   accuracy matrix, one row after each task: row t, column tau <= t is the test accuracy of task tau after
             task t; text as numpy.savetxt writes it with '%.4f'; the part above the diagonal is 0
<name>.json  the rest; written last, so its presence means: finished
"""

import json
import shutil
import tempfile
from pathlib import Path

import numpy as np

from errors import UserError
from files import atomic


class Output:
    """The two files of one run, <base>.txt and <base>.json."""

    def __init__(self, path):
        """Raises UserError where nothing can be written: to be made before any work is done."""
        if Path(path).is_dir():
            raise UserError(f'--output: {path} is a folder; give a file name')
        base = str(path).removesuffix('.txt')
        self.txt, self.json = Path(f'{base}.txt'), Path(f'{base}.json')
        try:
            with tempfile.TemporaryFile(dir=self.txt.parent):
                pass
        except OSError as error:
            raise UserError(f'--output: cannot write in {self.txt.parent}: {error.strerror}') from error

    def open(self, arguments):
        """Make way for a run with these arguments (a dict that JSON can hold).

        A finished result of other arguments is not lost: it is kept beside, as <base>.old-1, .old-2 ...
        """
        self.arguments = arguments
        if not self.json.exists():
            return
        if _read(self.json).get('arguments') != json.loads(json.dumps(arguments)):
            n = 1
            while (old := self.json.with_name(f'{self.json.stem}.old-{n}.json')).exists():
                n += 1
            print(f'{self.json} holds a run with other arguments: kept as {old.name}')
            shutil.copyfile(self.json, old)
            if self.txt.exists():
                self.txt.rename(old.with_suffix('.txt'))
        self.json.unlink()

    def save_matrix(self, accuracy):
        with atomic(self.txt) as part:
            np.savetxt(part, accuracy, '%.4f')

    def save_record(self, accuracy, **rest):
        """`rest` is written after the arguments and the accuracies, which are in full precision here."""
        record = {
            'arguments': self.arguments,
            'accuracy': accuracy.tolist(),
            'average_accuracy': average_accuracy(accuracy),
            'average_forgetting': average_forgetting(accuracy),
            **rest,
        }
        with atomic(self.json) as part:
            part.write_text(json.dumps(record, indent=1) + '\n')


def _read(path):
    try:
        return json.loads(path.read_text())
    except ValueError:  # not ours: kept like any other result
        return {}


def average_accuracy(accuracy):
    """Mean over all tasks of the accuracy after the last one."""
    return float(accuracy[-1].mean())


def average_forgetting(accuracy):
    """Mean over all tasks but the last of the drop from when it was learned to the end; 0 for a single task."""
    drop = accuracy.diagonal() - accuracy[-1]
    return float(drop[:-1].mean()) if len(drop) > 1 else 0.0


def table(names, accuracy):
    """The accuracy matrix in %, with task names, as text."""
    corner = 'test accuracy in %'
    width = max(len(corner), *(len(f'after {name}') for name in names))
    lines = [f'{corner:{width}}  ' + '  '.join(f'{name:>6}' for name in names)]
    for t, name in enumerate(names):
        cells = (f'{100 * a:{max(6, len(names[u]))}.2f}' for u, a in enumerate(accuracy[t, : t + 1]))
        lines.append(f'{f"after {name}":{width}}  {"  ".join(cells)}')
    return '\n'.join(lines)
