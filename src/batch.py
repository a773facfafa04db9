"""Batches of runs: what run_multi.py and work.py share.

Each run is a process of its own, forked from one that has imported everything. What is done is skipped; what fails
stops nothing else; a run that is killed goes on as long as it gets further each time; a batch that is killed is
finished by the same command. Two batches may share runs: who finds one taken waits for its result.
"""

import contextlib
import multiprocessing
import multiprocessing.forkserver
import os
import shlex
import signal
import sys
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

import torch

import run
from arguments import count
from board import Board
from checkpoints import Checkpoint
from errors import Busy, UserError
from files import ROOT
from identity import Identity
from machine import choose_device
from results import Output

PROCESSES = multiprocessing.get_context('forkserver')  # not fork: CUDA must not be touched before
POLL = 0.1  # seconds between two looks at the processes
RETRY = 1  # seconds before another look at a run that another batch has taken, or that was killed
OURS = ('--approach', '--experiment', '--seed', '--parameter', '--device', '--output', '--fresh')  # not after --


@dataclass(frozen=True)
class Run:
    argv: list  # of run.py, without --device
    output: Output
    checkpoint: Checkpoint
    identity: Identity
    stale: str | None  # of run.py

    @classmethod
    def plan(cls, approach, experiment, seed, parameter, txt, rest):
        """rest: more arguments of run.py. Raises UserError where run.py would."""
        if ours := [word for word in rest if word.split('=')[0] in OURS]:
            raise UserError(f'{ours[0]} cannot stand after --: that is for the batch to say')
        argv = ['--approach', approach, '--experiment', experiment, '--seed', str(seed), '--output', str(txt), *rest]
        args = run.parse([*argv, '--parameter', parameter] if parameter else argv)
        argv = [*argv, '--data', os.path.abspath(args.data), *(['--parameter', parameter] if parameter else [])]
        output = Output(txt, args.save)
        return cls(argv, output, Checkpoint(output, args.tmp), Identity(args), args.stale)

    @property
    def name(self):
        return self.output.txt.stem

    @property
    def log(self):
        return self.output.txt.with_suffix('.log')

    def command(self, device):
        return [sys.executable, str(ROOT / 'src' / 'run.py'), *self.argv, '--device', device]

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

    def progress(self):
        """Something else after each epoch."""
        path = self.checkpoint.path
        return path.stat().st_mtime_ns if path.exists() else None


def add_options(parser):
    parser.add_argument('--res', type=Path, default=ROOT / 'res', metavar='DIR', help='for the results, and a log of '
                        'each run (default res)')  # fmt: skip
    parser.add_argument('--devices', default='auto', metavar='D,D,...', help='cpu, or cuda:0,cuda:1 ... (default auto: '
                        'all CUDA devices, else cpu)')  # fmt: skip
    parser.add_argument('--nproc', type=count, default=1, metavar='K', help='runs at a time on each device; on the '
                        'CPU they share its cores (default 1)')  # fmt: skip
    parser.add_argument('--engine', choices=('local', 'ray'), default='local', help='this machine, or a Ray cluster '
                        '(needs: pip install ray)')  # fmt: skip
    parser.add_argument('--address', metavar='HOST:PORT', help='of the Ray cluster (default: as ray.init finds it)')
    parser.add_argument('--dry-run', action='store_true', help='print the commands only')


def split(argv):
    """Our own arguments, and those of run.py behind --."""
    argv = list(sys.argv[1:] if argv is None else argv)
    at = argv.index('--') if '--' in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def execute(runs, args):
    """Do all runs that are not done. Returns the exit code: 1 if one failed."""
    runs[0].output.check()
    chosen = devices(args.devices) if args.engine == 'local' else [args.devices]
    done, todo = [], []
    for r in runs:
        (done if r.finished() else todo).append(r)
    if args.dry_run:
        for r in todo:
            print(shlex.join(r.command(chosen[0])))
        return 0
    for r in done:
        r.tidy()
    board = Board(len(runs), len(done))
    try:
        if args.engine == 'ray':
            import cluster

            cluster.execute(todo, args, board)
        else:
            execute_here(todo, [device for device in chosen for _ in range(args.nproc)], board)
    finally:
        board.close()
    return 1 if board.failed else 0


def devices(text):
    """The names in --devices. Raises UserError."""
    if text != 'auto':
        return [str(choose_device(name)) for name in text.split(',')]
    return [f'cuda:{i}' for i in range(torch.cuda.device_count())] or ['cpu']


def execute_here(runs, slots, board):
    """slots: a device for each run that may go on at the same time."""
    threads = max(1, len(os.sched_getaffinity(0)) // len(slots))
    waiting, free, going = deque((0, r) for r in runs), list(slots), {}  # (not before, run); process -> its run ...
    with signals_noted() as signals:
        try:
            while waiting or going:
                while free and waiting and waiting[0][0] <= time.monotonic():
                    _, r = waiting.popleft()
                    if r.finished():  # by another batch
                        board.end(r, 0)
                    elif r.taken():
                        waiting.append((time.monotonic() + RETRY, r))
                    else:
                        device = free.pop(0)
                        process = PROCESSES.Process(target=work, args=(r, device, threads), name=r.name)
                        process.start()
                        going[process] = r, device, r.progress()
                        board.begin(r)
                time.sleep(POLL)
                for process in [p for p in going if p.exitcode is not None]:
                    r, device, progress = going.pop(process)
                    free.append(device)
                    killed = process.exitcode < 0 and r.progress() != progress
                    if r.finished():
                        r.tidy()
                        board.end(r, 0)
                    elif killed or process.exitcode == Busy.code:
                        waiting.append((time.monotonic() + RETRY, r))
                        board.pause(r)
                    else:
                        board.end(r, process.exitcode)
                board.refresh()
                if signals:
                    raise KeyboardInterrupt
        finally:
            for process in going:
                process.join(1)  # Ctrl-C has reached it, too; kill has not
                if process.exitcode is None:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(process.pid, signal.SIGINT)
                process.join()


@contextlib.contextmanager
def signals_noted():
    """A list to which Ctrl-C and SIGTERM add. An exception might come after the start of a process, before it is known.

    Starts the fork server, too: its imports take seconds, in which Ctrl-C is not for it.
    """
    path = [str(ROOT / 'src'), *filter(None, [os.environ.get('PYTHONPATH')])]  # Python 3.11 does not hand sys.path on
    os.environ['PYTHONPATH'] = os.pathsep.join(path)
    signals, before = [], {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    PROCESSES.set_forkserver_preload(['batch'])
    multiprocessing.forkserver.ensure_running()
    for number in before:
        signal.signal(number, lambda number, frame: signals.append(number))
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def work(r, device, threads):
    """In the process of a run."""
    for number in signal.SIGINT, signal.SIGTERM:
        signal.signal(number, signal.default_int_handler)
    log = os.open(r.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
    os.dup2(log, 1)
    os.dup2(log, 2)
    print(f'$ {shlex.join(r.command(device))}', flush=True)
    if 'OMP_NUM_THREADS' not in os.environ:
        torch.set_num_threads(threads)
    sys.exit(run.cli([*r.argv, '--device', device]))
