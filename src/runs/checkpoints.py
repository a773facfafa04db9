"""A checkpoint: what a killed run needs to go on from where it was saved last, in tmp/ until the run is done."""

import hashlib
import io
import json
import os
import time
from pathlib import Path

import torch

from core.errors import UserError, out_of_memory
from core.files import ROOT, atomic, digest, lock, pack, sweep
from runs.identity import differences

TMP = 'HAT_TMP'  # environment variable: the folder for checkpoints
FORMAT = 6  # of `state`: what an older version has saved is refused
ADVICE = 'go on with the command that made it; or delete it, or start over with --fresh'


def folder(output, tmp=None):
    """Where the checkpoint of the run that writes `output` is: run.py --tmp, $HAT_TMP or tmp/ of the repository; beside
    the output where that cannot be written."""
    if tmp := tmp or os.environ.get(TMP):
        return Path(tmp)
    own = ROOT / 'tmp'
    return own if os.access(own if own.exists() else ROOT, os.W_OK) else output.txt.parent


class Checkpoint:
    """Of the run that writes `output` (results.Output): one file, guarded by a lock."""

    def __init__(self, output, tmp=None):
        key = hashlib.blake2b(os.fsencode(output.txt.parent.resolve() / output.txt.name), digest_size=4).hexdigest()
        self.output = output
        self.path = folder(output, tmp) / f'{output.txt.stem}-{key}.checkpoint'
        self.saved_at, self.took = time.perf_counter(), 0.0

    def lock(self):
        """For the whole run: one process at a time writes the output, beside which the lock is. Raises Busy."""
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f'--tmp or ${TMP}: cannot make the folder {self.path.parent}: {error.strerror}') from error
        path = self.output.txt.with_name(f'.{self.output.txt.stem}.lock')
        return lock(path, f'{self.output.txt}: another process is at this run')

    def save(self, identity, state):
        """identity: what a run must agree in to go on from here, the head of a record (identity.facts) and its code.
        state: tensors, numbers, texts, lists, dicts."""
        start = time.perf_counter()
        content = pack({'identity': json.dumps(identity | {'format': FORMAT}), 'state': state})
        with atomic(self.path) as part, open(part, 'wb') as file:
            file.write(digest(content))
            file.write(content)
        self.saved_at = time.perf_counter()
        self.took = self.saved_at - start

    def due(self):
        """Whether saving now takes no more than a tenth of the time."""
        return time.perf_counter() - self.saved_at >= 10 * self.took

    def load(self, identity, device, stale=None):
        """The state and the code that computed it; None where there is no checkpoint.

        Raises UserError: damaged, another run's, or, unless stale is 'keep', of other code.
        """
        sweep(self.path)
        if not self.path.exists():
            return None
        content = memoryview(self.path.read_bytes())
        size = len(digest(b''))
        try:
            if content[:size] != digest(content[size:]):
                raise ValueError
            saved = torch.load(io.BytesIO(content[size:]), map_location=device, weights_only=True)
            old = json.loads(saved['identity'])
        except Exception as error:  # whatever a damaged or hostile file may bring about
            if out_of_memory(error):
                raise
            raise UserError(f'{self.path}: damaged checkpoint; delete it, or start over with --fresh') from error
        if differ := differences(old, identity | {'format': FORMAT}):
            raise UserError(f'{self.path}: checkpoint of another run: {"; ".join(differ)}; {ADVICE}')
        if old['code'].split('+')[-1] != identity['code']:
            if stale == 'redo':
                return None
            if stale != 'keep':
                advice = '--stale keep goes on from it, --stale redo starts over'
                raise UserError(f'{self.path}: checkpoint of other code; {advice}')
        return saved['state'], old['code']

    def remove(self):
        self.path.unlink(missing_ok=True)
        sweep(self.path)
