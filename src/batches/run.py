"""One run of a batch: a command of run.py, its result and its checkpoint."""

import contextlib
import os
import sys
from dataclasses import dataclass

import run
from core.errors import Busy, UserError
from core.files import ROOT
from core.results import Output
from runs.checkpoints import Checkpoint
from runs.identity import Identity

# Not after --: these are for the batch to say
OURS = '--approach', '--experiment', '--seed', '--parameter', '--device', '--output', '--fresh', '--stale'


@dataclass(frozen=True)
class Run:
    argv: list  # of run.py, without --device
    output: Output
    checkpoint: Checkpoint
    identity: Identity
    stale: str | None  # of run.py
    threads: int | None  # if they are chosen

    @classmethod
    def plan(cls, approach, experiment, seed, parameter, txt, stale, rest):
        """rest: more arguments of run.py. Raises UserError where run.py would."""
        if ours := [word for word in rest if word.split('=')[0] in OURS]:
            raise UserError(f'{ours[0]} cannot stand after --: that is for the batch to say')
        argv = ['--approach', approach, '--experiment', experiment, '--seed', str(seed), '--output', str(txt), *rest]
        argv += ['--stale', stale] if stale else []
        args = run.parse([*argv, '--parameter', parameter] if parameter else argv)
        argv = [*argv, '--data', os.path.abspath(args.data), *(['--parameter', parameter] if parameter else [])]
        output = Output(txt, args.save)
        return cls(argv, output, Checkpoint(output, args.tmp), Identity(args), args.stale, args.threads)

    @property
    def name(self):
        return self.output.txt.stem

    @property
    def log(self):
        return self.output.txt.with_suffix('.log')

    def on(self, device, threads):
        """The arguments of run.py, complete. threads: those that are there for a run."""
        return [*self.argv, '--threads', str(self.threads or threads), '--device', device]

    def command(self, device, threads):
        return [sys.executable, str(ROOT / 'src' / 'run.py'), *self.on(device, threads)]

    def finished(self):
        """Is its result there?"""
        return self.output.finished(self.identity, self.stale)

    def taken(self):
        """Is another process at it?"""
        try:
            with self.checkpoint.lock():
                return False
        except Busy:
            return True

    def tidy(self):
        """Nothing of a finished run stays in tmp/, even if it was killed on its last line."""
        with contextlib.suppress(Busy), self.checkpoint.lock():
            self.checkpoint.remove()

    def renew(self):
        """Nothing is there any more: the result is kept as .old-1, .old-2 ... Raises Busy."""
        with self.checkpoint.lock():
            self.checkpoint.remove()
            self.output.make_way()

    def progress(self):
        """Something else after each epoch."""
        path = self.checkpoint.path
        return path.stat().st_mtime_ns if path.exists() else None
