"""Checkpoints: the state from which an interrupted run resumes, in tmp/ until the run is finished."""

import hashlib
import io
import json
import os
import time
from collections import Counter, OrderedDict
from pathlib import Path

import torch

from core.errors import UserError, out_of_memory
from core.files import ROOT, atomic, digest, lock, remove_partial_files, serialize
from runs.identity import differences

TMP = 'HAT_TMP'  # environment variable: the folder for checkpoints
# What torch.load() takes for safe besides tensors, in dicts, lists, tuples and sets
PLAIN = (bool, int, float, complex, str, bytes, bytearray, type(None), torch.Size, torch.device, torch.dtype)
TYPES = 'a tensor, a number of Python, a text, None, or a list, tuple or dict of these'
FORMAT = 7  # of `state`: checkpoints of another format are rejected
ADVICE = 'resume with the original command, delete the file, or start from scratch with --fresh'


def folder(output, tmp=None):
    """The folder of the checkpoint: run.py --tmp, $HAT_TMP, or tmp/ of the repository; beside the output if that is
    read-only."""
    if tmp := tmp or os.environ.get(TMP):
        return Path(tmp)
    default = ROOT / 'tmp'
    return default if os.access(default if default.exists() else ROOT, os.W_OK) else output.txt.parent


def check_plain(value, *where):
    """Raises UserError if a nest of dicts, lists, tuples and sets holds what load() cannot read, such as a number of
    NumPy that an approach of your own keeps. where: the keys that lead to the value."""
    if type(value) in (dict, OrderedDict, Counter):
        for key, inner in value.items():
            check_plain(key, *where, 'a key')
            check_plain(inner, *where, key)
    elif type(value) in (list, tuple, set):
        for k, inner in enumerate(value):
            check_plain(inner, *where, k)
    elif not (type(value) in PLAIN or isinstance(value, torch.Tensor)):
        what = f'{type(value).__module__}.{type(value).__qualname__}'.removeprefix('builtins.')
        raise UserError(f'a checkpoint cannot hold {": ".join(map(str, where))}, of the type {what}: make it {TYPES}')


class Checkpoint:
    """Of the run that writes `output` (results.Output): one file, protected by a lock."""

    def __init__(self, output, tmp=None):
        key = hashlib.blake2b(os.fsencode(output.txt.parent.resolve() / output.txt.name), digest_size=4).hexdigest()
        self.output = output
        self.path = folder(output, tmp) / f'{output.txt.stem}-{key}.checkpoint'
        self.saved_at, self.save_seconds = time.perf_counter(), 0.0

    def lock(self):
        """Held for the whole run: one process at a time writes the output. The lock is beside it. Raises Busy."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--tmp or ${TMP}: cannot make the folder {self.path.parent}: {error.strerror}') from error
        path = self.output.txt.with_name(f'.{self.output.txt.stem}.lock')
        return lock(path, f'{self.output.txt}: this run is locked by another process')

    def save(self, identity, state):
        """identity: the entries of the record that identify the run (identity.facts), and its code.
        state: tensors, numbers, texts, lists, dicts."""
        start = time.perf_counter()
        check_plain(state)
        content = serialize({'identity': json.dumps(identity | {'format': FORMAT}), 'state': state})
        self.path.parent.mkdir(parents=True, exist_ok=True)  # if a cleaner of /tmp, or a person, has removed it
        with atomic(self.path) as part, open(part, 'wb') as file:
            file.write(digest(content))
            file.write(content)
        self.saved_at = time.perf_counter()
        self.save_seconds = self.saved_at - start

    def due(self):
        """Would saving now take at most a tenth of the time?"""
        return time.perf_counter() - self.saved_at >= 10 * self.save_seconds

    def load(self, identity, device, stale=None):
        """The state and the code that computed it; None if there is no checkpoint, or, with stale='redo', one of other
        code. A result of another run in the place of this one's is renamed.

        Raises UserError if it is damaged, of another run, or of other code and stale is None.
        """
        remove_partial_files(self.path)
        if not self.path.exists():
            return None
        content = memoryview(self.path.read_bytes())
        size = len(digest(b''))
        try:
            if content[:size] != digest(content[size:]):
                raise ValueError
            saved = torch.load(io.BytesIO(content[size:]), map_location=device, weights_only=True)
            old = json.loads(saved['identity'])
        except Exception as error:  # whatever a damaged or hostile file may raise
            if out_of_memory(error):
                raise
            advice = 'delete it, or start from scratch with --fresh'
            raise UserError(f'{self.path}: damaged checkpoint; {advice}') from error
        if differing := differences(old, identity | {'format': FORMAT}):
            raise UserError(f'{self.path}: checkpoint of another run: {"; ".join(differing)}; {ADVICE}')
        if old['code'].split('+')[-1] != identity['code']:
            if stale == 'redo':
                return None
            if stale != 'keep':
                advice = 'resume from it with --stale keep, or start from scratch with --stale redo'
                raise UserError(f'{self.path}: checkpoint of other code; {advice}')
        self.output.back_up_other()
        return saved['state'], old['code']

    def remove(self):
        self.path.unlink(missing_ok=True)
        remove_partial_files(self.path)
