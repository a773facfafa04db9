"""Batches of runs: what run_multi.py and work.py share.

Each run is a process of its own, forked from one that has imported everything. What is done is skipped; what fails
stops nothing else; a run that is killed goes on as long as it gets further each time; a batch that is killed is
finished by the same command. Two batches may share runs: who finds one taken waits for its result.
"""

import contextlib
import multiprocessing
import os
import shlex
import signal
import sys
import tempfile
import time
from collections import deque
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path

import torch

import run
from arguments import parallel
from board import Board
from checkpoints import Checkpoint
from errors import Busy, UserError, exit_code, require
from files import ROOT
from identity import Identity
from machine import choose_device, cores
from results import Output, make_folder

SIGNALS = signal.SIGINT, signal.SIGTERM  # both stop a batch
SOCKET = 60  # characters that the path of a folder may have for the fork server to put its socket there
POLL = 0.1  # seconds between two looks at the processes
RETRY = 1  # seconds before another look at a run that another batch has taken, or that was killed
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


def add_options(parser):
    parser.add_argument('--res', type=Path, default=ROOT / 'res', metavar='DIR', help='for the results, and a log of '
                        'each run; made if it is not there (default res)')  # fmt: skip
    parser.add_argument('--devices', default='auto', metavar='D,D,...', help='cpu, mps, or cuda:0,cuda:1 ... (default '
                        'auto: all CUDA devices, else cpu)')  # fmt: skip
    parser.add_argument('--nproc', type=parallel, default=1, metavar='K', help='runs at a time on each device; on the '
                        'CPU they share its cores (default 1)')  # fmt: skip
    parser.add_argument('--engine', choices=('local', 'ray'), default='local', help='this machine, or a Ray cluster '
                        '(needs: pip install ray)')  # fmt: skip
    parser.add_argument('--address', metavar='HOST:PORT', help='of the Ray cluster (default: as ray.init finds it)')
    parser.add_argument('--fresh', action='store_true', help='do all runs again, whatever is there; results are kept '
                        'as .old-1, .old-2 ...; what was stopped goes on when it is left out')  # fmt: skip
    parser.add_argument('--stale', choices=('keep', 'redo'), help='what other code has computed, as of run.py')
    parser.add_argument('--dry-run', action='store_true', help='print the commands only')


def split(argv):
    """Our own arguments, and those of run.py behind --."""
    argv = list(sys.argv[1:] if argv is None else argv)
    at = argv.index('--') if '--' in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def execute(runs, args):
    """Do all runs that are not done. Returns the exit code: 1 if one failed."""
    if args.engine == 'ray':
        require('--engine ray needs Ray', 'ray')
    chosen = devices(args.devices) if args.engine == 'local' else [args.devices]
    slots = [device for device in chosen for _ in range(args.nproc)]
    threads = share(slots) if args.engine == 'local' else 1
    if args.dry_run:
        for r in runs:
            if args.fresh or not r.finished():
                print(shlex.join(r.command(chosen[0], threads)))
        return 0
    make_folder(args.res)
    if args.fresh:
        if busy := next((r for r in runs if r.taken()), None):
            raise Busy(f'{busy.output.txt}: another process is at this run; nothing is done')
        for r in runs:
            r.renew()
    done, todo = [], []
    for r in runs:
        (done if r.finished() else todo).append(r)
    for r in done:
        r.tidy()
    if todo and args.engine == 'local':
        each = os.environ.get('OMP_NUM_THREADS') or ', '.join(sorted({str(r.threads or threads) for r in todo}))
        print(f'runs at a time: {len(slots)}, on {", ".join(chosen)}; CPU threads of each: {each}', flush=True)
    if other := [r.name for r in done if r.output.stale(r.identity)]:
        names = other[0] if len(other) == 1 else f'{other[0]} and {len(other) - 1} more'
        print(f'done before by other code: {names}; --stale redo does them again', flush=True)
    board = Board(len(runs), len(done))
    try:
        if args.engine == 'ray':
            import cluster

            cluster.execute(todo, args, board)
        else:
            execute_here(todo, slots, threads, board)
    finally:
        board.close()
    return 1 if board.failed else 0


def share(slots):
    """CPU threads for each of so many runs at a time."""
    return max(1, cores() // len(slots))


def devices(text):
    """The names in --devices. Raises UserError."""
    if text != 'auto':
        return [str(choose_device(name)) for name in text.split(',')]
    return [f'cuda:{i}' for i in range(torch.cuda.device_count())] or ['cpu']


def execute_here(runs, slots, threads, board):
    """slots: a device for each run that may go on at the same time; threads: of each on the CPU."""
    waiting, free, going = deque((0, r) for r in runs), list(slots), {}  # (not before, run); process -> its run ...
    with signals_noted() as signals:
        processes = context()
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
                        process = processes.Process(target=work, args=(r, device, threads), name=r.name)
                        signals_held(True)
                        process.start()
                        signals_held(False)
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
    """A list to which they add. An exception might come after the start of a process, before it is known."""
    signals = []
    before = {number: signal.signal(number, lambda number, frame: signals.append(number)) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def signals_held(hold):
    """They wait from True to False; in a process that is started meanwhile, until it says False."""
    if hasattr(signal, 'pthread_sigmask'):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK if hold else signal.SIG_UNBLOCK, SIGNALS)


def context():
    """How processes are started: forked from a server that has imported everything (not from this process: CUDA must
    not be touched before), or, where there is none, or no place for its socket, each anew."""
    path = [str(ROOT / 'src'), *filter(None, [os.environ.get('PYTHONPATH')])]  # Python 3.11 does not hand sys.path on
    os.environ['PYTHONPATH'] = os.pathsep.join(path)
    places = [folder for folder in (tempfile.gettempdir(), '/tmp', '/var/tmp') if len(os.fsencode(folder)) <= SOCKET]
    place = next((folder for folder in places if os.access(folder, os.W_OK | os.X_OK)), None)
    if hasattr(signal, 'pthread_sigmask'):
        resource_tracker.ensure_running()  # now: its start lets signals through
    if not place or 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    from multiprocessing import forkserver

    before, tempfile.tempdir = tempfile.tempdir, place
    signals_held(True)
    try:
        forkserver.set_forkserver_preload(['batch'])
        forkserver.ensure_running()
    finally:
        signals_held(False)
        tempfile.tempdir = before
    return multiprocessing.get_context('forkserver')


def work(r, device, threads):
    """In the process of a run."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    with open(r.log, 'ab') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    def main(argv):
        signals_held(False)
        print(f'$ {shlex.join(r.command(device, threads))}', flush=True)
        return run.main(argv)

    sys.exit(exit_code('run.py', main, r.on(device, threads)))
