"""A run of a batch: its arguments of run.py, its result and its checkpoint."""

import contextlib
import os
import sys
from dataclasses import dataclass

import run
from core.errors import Busy, UserError
from core.files import ROOT
from core.results import Output, read_record
from runs.checkpoints import Checkpoint
from runs.identity import Identity

# Arguments of run.py that a batch sets for each run
RESERVED = '--approach', '--experiment', '--seed', '--parameter', '--device', '--output', '--fresh', '--stale'


@dataclass(frozen=True)
class Run:
    argv: list  # of run.py, without --threads and --device
    output: Output
    checkpoint: Checkpoint
    identity: Identity
    stale: str | None  # --stale
    threads: int | None  # --threads, if given

    @classmethod
    def create(cls, batch, rest, approach, experiment, seed, parameter='', suffix=''):
        """batch: the arguments of the batch; rest: those after --, of run.py; suffix: of the result's name. Raises
        UserError if run.py would."""
        if reserved := [word for word in rest if word.split('=')[0] in RESERVED]:
            raise UserError(f'{reserved[0]} is not allowed after --: a batch sets it for each run')
        txt = batch.res / f'{experiment}_{approach}_{seed}{suffix}.txt'
        argv = ['--approach', approach, '--experiment', experiment, '--seed', str(seed), '--output', str(txt), *rest]
        argv += ['--stale', batch.stale] if batch.stale else []
        argv += ['--parameter', parameter] if parameter else []
        args = run.parse(argv)
        for option, place in (('--data', args.data), ('--pretrained', args.pretrained)):  # workers run elsewhere
            argv += [option, os.path.abspath(place)] if place else []
        output = Output(txt, args.save)
        return cls(argv, output, Checkpoint(output, args.tmp), Identity(args), args.stale, args.threads)

    @property
    def name(self):
        return self.output.txt.stem

    @property
    def log(self):
        return self.output.txt.with_suffix('.log')

    def arguments(self, device, threads):
        """The complete arguments of run.py. threads: the default."""
        return [*self.argv, '--threads', str(self.threads or threads), '--device', device]

    def command(self, device, threads):
        return [sys.executable, str(ROOT / 'src' / 'run.py'), *self.arguments(device, threads)]

    def finished(self):
        return self.output.finished(self.identity, self.stale)

    def replaces(self):
        """Of a run that is not finished: is there a result that it will rename, such as one of other arguments?"""
        return 'times' in read_record(self.output.json)

    def is_locked(self):
        """Is another process running it?"""
        try:
            with self.checkpoint.lock():
                return False
        except Busy:
            return True

    def remove_checkpoint(self):
        """Of a finished run, which may have been killed just before it did so itself."""
        with contextlib.suppress(Busy), self.checkpoint.lock():
            self.checkpoint.remove()

    def reset(self):
        """Remove the checkpoint and rename the result to .old-1, .old-2 ... Raises Busy."""
        with self.checkpoint.lock():
            self.checkpoint.remove()
            self.output.back_up_existing()

    def progress(self):
        """A value that changes with each checkpoint."""
        with contextlib.suppress(FileNotFoundError):
            return self.checkpoint.path.stat().st_mtime_ns
