"""A checkpoint: what a killed run needs to go on from where it was saved last, in tmp/ until the run is done."""

import hashlib
import io
import json
import os
import time

import torch

from errors import UserError
from files import ROOT, atomic, lock, pack, sweep

FOLDER = ROOT / 'tmp'
FORMAT = 4  # of `state`: what an older version has saved is refused
ADVICE = 'go on with the command that made it; or delete it, or start over with --fresh'


class Checkpoint:
    """Of the run that writes `output` (results.Output): one file, guarded by a lock file beside it."""

    def __init__(self, output):
        key = hashlib.blake2b(os.fsencode(output.txt.parent.resolve() / output.txt.name), digest_size=4).hexdigest()
        self.output = output
        self.path = FOLDER / f'{output.txt.stem}-{key}.checkpoint'
        self.saved_at, self.took = time.perf_counter(), 0.0

    def lock(self):
        """For the whole run: one process at a time writes the output. Raises Busy."""
        FOLDER.mkdir(exist_ok=True)
        return lock(self.path.with_suffix('.lock'), f'{self.output.txt}: another process is at this run')

    def save(self, identity, state):
        """identity: what a run must agree in to go on from here: a dict that JSON can hold, with a dict `arguments`.
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

    def load(self, identity, device):
        """The state, or None where there is no checkpoint. Raises UserError: damaged, or another run's."""
        sweep(self.path)
        if not self.path.exists():
            return None
        content = memoryview(self.path.read_bytes())
        size = len(digest(b''))
        try:
            if content[:size] != digest(content[size:]):
                raise ValueError
            saved = torch.load(io.BytesIO(content[size:]), map_location=device, weights_only=True)
            old, new = json.loads(saved['identity']), json.loads(json.dumps(identity | {'format': FORMAT}))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # whatever a damaged or hostile file may bring about
            raise UserError(f'{self.path}: damaged checkpoint; delete it, or start over with --fresh') from error
        if old != new:
            old, new = (identity | identity['arguments'] for identity in (old, new))
            differ = ', '.join(
                f'{k} {old.get(k)} there, {v} here' for k, v in new.items() if old.get(k) != v and k != 'arguments'
            )
            raise UserError(f'{self.path}: checkpoint of another run: {differ}; {ADVICE}')
        return saved['state']

    def remove(self):
        self.path.unlink(missing_ok=True)
        sweep(self.path)


def digest(content):
    return hashlib.blake2b(content, digest_size=16).digest()
