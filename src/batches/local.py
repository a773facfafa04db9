"""A batch of runs on this machine.

Each run is a process, forked from a server that has imported everything. A killed run is started again as long as it
makes progress each time, and an interrupted one unless the batch is interrupted, too.
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
from multiprocessing import connection, resource_tracker
from typing import NamedTuple

import run
from core.errors import INTERRUPTED, Busy, exit_code
from core.files import ROOT

SIGNALS = signal.SIGINT, signal.SIGTERM  # both stop a batch
MAX_SOCKET_FOLDER = 60  # length of the path of a folder in which the fork server can make its socket
POLL = 0.1  # seconds between two looks at the signals and at runs that wait
RETRY = 1  # seconds before a run that was locked or killed is tried again


class Waiting(NamedTuple):
    run: object  # batches.run.Run
    until: float = 0  # time.monotonic()


class Running(NamedTuple):
    run: object
    device: str
    progress: object  # Run.progress() at its start


def execute(runs, slots, threads, display):
    """slots: a device for each of the runs at a time; threads: of each on the CPU."""
    waiting, free, running = deque(map(Waiting, runs)), list(slots), {}  # running: process -> Running

    def wait(r):
        waiting.append(Waiting(r, time.monotonic() + RETRY))

    with record_signals() as signals:
        processes = process_context()
        try:
            while waiting or running:
                while free and waiting and waiting[0].until <= time.monotonic():
                    r = waiting.popleft().run
                    if r.finished():  # by another batch
                        display.finish(r, 0)
                    elif r.is_locked():
                        wait(r)
                    else:
                        device, before = free.pop(0), r.progress()
                        running[start(processes, r, device, threads)] = Running(r, device, before)
                        display.start(r)
                connection.wait([process.sentinel for process in running], POLL)
                for process in [p for p in running if p.exitcode is not None]:
                    r, device, before = running.pop(process)
                    free.append(device)
                    killed_after_progress = process.exitcode < 0 and r.progress() != before
                    if r.finished():
                        r.remove_checkpoint()
                        display.finish(r, 0)
                    elif killed_after_progress or process.exitcode in (Busy.code, INTERRUPTED) or signals:
                        wait(r)
                        display.remove(r)  # it is started again
                    else:
                        display.finish(r, process.exitcode)
                display.refresh()
                if signals:
                    raise KeyboardInterrupt
        finally:
            for process in running:
                stop(process)


def start(processes, r, device, threads):
    """The process of a run, started. processes: of process_context()."""
    process = processes.Process(target=run_in_child, args=(r, device, threads), name=r.name)
    block_signals(True)
    process.start()
    block_signals(False)
    return process


def stop(process):
    """Interrupt the process of a run, if Ctrl-C in a terminal has not done so already, and wait for its end."""
    process.join(1)
    if process.exitcode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGINT)
    process.join()


@contextlib.contextmanager
def record_signals():
    """Yield a list to which SIGNALS are added, instead of an exception between the start of a process and its entry in
    `running`."""
    signals = []
    before = {number: signal.signal(number, lambda number, frame: signals.append(number)) for number in SIGNALS}
    try:
        yield signals
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def block_signals(block):
    """Hold SIGNALS back, or let them through. A process that is started meanwhile inherits this."""
    if hasattr(signal, 'pthread_sigmask'):  # not on Windows
        signal.pthread_sigmask(signal.SIG_BLOCK if block else signal.SIG_UNBLOCK, SIGNALS)


def process_context():
    """How processes are started: forked from a server that has imported everything (not from this process, which may
    have used CUDA: a fork could not use it); without fork, or a folder for the server's socket, as new interpreters."""
    path = [str(ROOT / 'src'), *filter(None, [os.environ.get('PYTHONPATH')])]  # Python 3.11 does not pass sys.path on
    os.environ['PYTHONPATH'] = os.pathsep.join(path)
    folders = [f for f in (tempfile.gettempdir(), '/tmp', '/var/tmp') if len(os.fsencode(f)) <= MAX_SOCKET_FOLDER]
    folder = next((folder for folder in folders if os.access(folder, os.W_OK | os.X_OK)), None)
    if hasattr(signal, 'pthread_sigmask'):
        resource_tracker.ensure_running()  # now, because its start unblocks signals
    if not folder or 'forkserver' not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context('spawn')
    from multiprocessing import forkserver

    before, tempfile.tempdir = tempfile.tempdir, folder
    block_signals(True)
    try:
        forkserver.set_forkserver_preload(['batches.local'])
        forkserver.ensure_running()
    finally:
        block_signals(False)
        tempfile.tempdir = before
    return multiprocessing.get_context('forkserver')


def run_in_child(r, device, threads):
    """The process of a run; its output goes to the log."""
    for number in SIGNALS:
        signal.signal(number, signal.default_int_handler)
    with open(r.log, 'ab') as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)

    def main(argv):
        block_signals(False)
        print(f'$ {shlex.join(r.command(device, threads))}', flush=True)
        return run.main(argv)

    sys.exit(exit_code('run.py', main, r.arguments(device, threads), trains=True))
