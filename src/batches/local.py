"""A batch of runs on this machine.

Each run is a process of its own, forked from one that has imported everything; one that is killed goes on as long as
it gets further each time.
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
from multiprocessing import resource_tracker

import run
from core.errors import Busy, exit_code
from core.files import ROOT

SIGNALS = signal.SIGINT, signal.SIGTERM  # both stop a batch
SOCKET = 60  # characters that the path of a folder may have for the fork server to put its socket there
POLL = 0.1  # seconds between two looks at the processes
RETRY = 1  # seconds before another look at a run that another batch has taken, or that was killed


def execute(runs, slots, threads, board):
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
        forkserver.set_forkserver_preload(['batches.local'])
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
