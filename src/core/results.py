"""The result files of a run: their format, written and read here only.

<name>.txt   the accuracy matrix, written after each task: row t, column tau <= t is the test accuracy of task tau after
             learning task t; text of numpy.savetxt with '%.4f'; 0 above the diagonal
<name>.pt    with run.py --save: the state of the approach after the last task, its network included
<name>.json  the record: all the rest; written last, so if it exists the run is finished
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
from core.files import atomic, digest, remove_partial_files, serialize, write
from core.hyperparameters import show
from core.shapes import IDENTITY, check

MAX_SIZE = 2e9  # bytes of a record that is read
ROUNDING = 0.51e-4  # the largest difference between a .txt and its .json
MAX_MATRIX = 50e6  # bytes of an accuracy matrix: NumPy takes ten times the memory to find a damaged one


class Output:
    """The files of one run: <base>.txt, <base>.json and, with save, <base>.pt."""

    def __init__(self, path, save=False):
        path = Path(path)
        if path.is_dir() or path.exists() and not path.is_file():
            raise UserError(f'--output: {path} is {"a folder" if path.is_dir() else "not a file"}; give a file name')
        if path.suffix in ('.json', '.pt', '.log'):
            raise UserError(f'--output: {path}: give the name of the accuracy matrix, FILE.txt')
        if path.name == '.txt':  # a path without a suffix, as pathlib sees it
            raise UserError(f'--output: {path} has no name before .txt')
        base = str(path).removesuffix('.txt')
        self.txt, self.json = Path(f'{base}.txt'), Path(f'{base}.json')
        self.model = Path(f'{base}.pt') if save else None
        self.files = [path for path in (self.txt, self.model, self.json) if path]
        self.identity = None  # of the run that writes them

    def check(self):
        """Raises UserError if nothing can be written; to be called before the run starts."""
        make_folder(self.txt.parent)

    def finished(self, identity, stale=None):
        """Do the files hold the result of this run (identity.Identity)? With stale='redo': computed by this code?
        Keeps the identity, for back_up_other() and save_record()."""
        self.identity = identity
        record = read_record(self.json)
        whole = is_complete(record) and self.has_matrix_of(record) and (not self.model or self.has_model_of(record))
        finished = whole and not identity.differences(record)
        return finished and not (stale == 'redo' and self.stale(identity))

    def has_matrix_of(self, record):
        """Is the .txt the accuracy matrix of a record? Half of it, or that of another run, may have been copied."""
        try:
            return same_matrix(read_matrix(self.txt), record['accuracy'])
        except UserError:
            return False

    def has_model_of(self, record):
        """Is the saved network that of a record? One of another run may have stayed."""
        return self.model.exists() and digest(self.model.read_bytes()).hex() == record.get('model')

    def stale(self, identity):
        """Was the existing result computed by other code?"""
        return read_record(self.json).get('code') != identity.code

    def back_up_existing(self, identity=None):
        """Rename an existing result to <base>.old-1, .old-2 ...; prints in what it differs from the run `identity`."""
        record = read_record(self.json)
        if record and identity and (differing := identity.differences(record)):
            print(f'{self.json} is the result of another run: {"; ".join(differing)}', flush=True)
        elif is_complete(record) and not self.has_matrix_of(record):
            print(f'{self.txt} is missing, or not the accuracy matrix that is in {self.json.name}', flush=True)
        n, paths = 1, [self.txt.with_suffix(suffix) for suffix in ('.txt', '.pt', '.json')]
        while any(_backup(path, n).exists() for path in paths):
            n += 1
        for path in paths:
            if path.exists():
                path.rename(_backup(path, n))
                print(f'existing {path} renamed to {_backup(path, n).name}', flush=True)

    def back_up_other(self):
        """Rename the result of another run that was put in the place of this one while it was interrupted."""
        record = read_record(self.json)
        if self.identity and self.json.exists() and (not record or self.identity.differences(record)):
            self.back_up_existing(self.identity)

    def remove_partial_files(self):
        """Remove the temporary files of killed processes."""
        for path in self.files:
            remove_partial_files(path)

    def save_matrix(self, accuracy):
        with atomic(self.txt) as part:
            np.savetxt(part, accuracy, '%.4f')

    def save_model(self, state):
        """state: of approaches.base.Approach.state(). Returns its entry in the record."""
        if not self.model:
            return {}
        content = serialize(state)
        write(self.model, content)
        return {'model': digest(content).hex()}

    def save_record(self, record):
        self.save_matrix(record['accuracy'])  # again: the two files are of one run, whatever came in between
        record = record | (self.identity.notes(record) if self.identity else {})
        write(self.json, json_text(record))


def _backup(path, n):
    return path.with_name(f'{path.stem}.old-{n}{path.suffix}')


def json_text(content, indent=1):
    """Strict JSON: numbers that are not finite are null, tensors and arrays numbers or lists."""

    def strict(value):
        if hasattr(value, 'tolist'):  # what an approach of your own may report
            value = value.tolist()
        if isinstance(value, dict):
            return {key: strict(inner) for key, inner in value.items()}
        if isinstance(value, (list, tuple)):
            return [strict(element) for element in value]
        return None if isinstance(value, float) and not math.isfinite(value) else value

    return json.dumps(strict(content), indent=indent, allow_nan=False) + '\n'


def read_record(path):
    """The content of a .json; {} if there is none, or if it is damaged in what identifies a run."""
    try:
        check(record := load_record(path), IDENTITY, path)
        return record
    except UserError:
        return {}


def is_complete(record):
    """Is it the record of a run that has learned all tasks?"""
    n = len(record.get('tasks', []))
    return n > 0 and 'times' in record and [len(row) for row in record.get('accuracy', [])] == [n] * n


def load_record(path):
    """The content of a .json, {} if there is none. Raises UserError. Numbers that are not finite are None."""
    if not os.path.exists(path):
        return {}
    try:
        record = json.loads(read_text(path), parse_constant=lambda name: None)
    except (ValueError, RecursionError) as error:
        raise UserError(f'{path}: cannot be read as JSON: {one_line(error)}') from error
    if not isinstance(record, dict):
        raise UserError(f'{path}: not the record of a run')
    return record


def read_text(path, most=MAX_SIZE):
    """The content of a result file of at most so many bytes. Raises UserError."""
    try:
        if not os.path.isfile(path):
            raise UserError(f'{path}: not a file')
        if (size := os.stat(path).st_size) > most:
            raise UserError(f'{path}: {size / 1e6:.0f} MB: too large for a result, not read')
        return Path(path).read_text(encoding='utf-8')
    except OSError as error:
        raise UserError(f'{path}: cannot be read: {error.strerror}') from error
    except UnicodeDecodeError as error:
        raise UserError(f'{path}: cannot be read as text: {one_line(error)}') from error


def command(record):
    """The command of a run, from its record."""
    words = ['python src/run.py']
    places = {'data': record.get('folder'), 'pretrained': record.get('pretrained')}
    arguments = record.get('arguments', {})
    if arguments.get('network'):  # which takes no --width
        arguments = arguments | {'width': None}
    for name, value in (arguments | places).items():
        value = show(value) if name == 'parameter' else ','.join(value) if isinstance(value, list) else value
        between = '=' if str(value).startswith('-') else ' '  # argparse takes -birds for an option
        option = f'--{name.replace("_", "-")}' + ('' if value is True else between)
        words += [] if value in (None, '') else [option] if value is True else [f'{option}{shlex.quote(str(value))}']
    return ' '.join(words)


def make_folder(path):
    """Make a folder if it does not exist. Raises UserError if nothing can be written in it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise UserError(f'cannot write in {path}: {error.strerror}') from error


def pruned_folder(path):
    """Where prune.py writes the networks cut from the result `path`, a .json."""
    return path.with_name(f'{path.stem}_pruned')


def read_matrix(path):
    """The accuracy matrix of a .txt, (T, T). Raises UserError."""
    lines = read_text(path, MAX_MATRIX).splitlines()
    try:
        with warnings.catch_warnings(action='ignore'):  # of an empty file, which is rejected below
            accuracy = np.loadtxt(lines, ndmin=2)
    except ValueError as error:
        raise UserError(f'{path}: cannot be read as an accuracy matrix: {one_line(error)}') from error
    if accuracy.shape[0] != accuracy.shape[1]:
        raise UserError(f'{path}: {accuracy.shape[0]} rows of {accuracy.shape[1]} are not an accuracy matrix')
    if not (valid := (accuracy >= 0) & (accuracy <= 1)).all():
        raise UserError(f'{path}: {accuracy[~valid][0]:g} is not an accuracy, a number from 0 to 1')
    return accuracy


def same_matrix(accuracy, exact):
    """Is the matrix of a .txt that of its record?"""
    return accuracy.shape == np.shape(exact) and np.abs(accuracy - exact).max() <= ROUNDING
