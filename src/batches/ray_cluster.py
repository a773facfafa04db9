"""A batch of runs on a Ray cluster, an optional dependency: pip install ray, on all nodes.

Ray copies the code to the nodes, schedules the runs, and retries those of a failed node. A run returns the content of
its files, and they are written here, with or without a shared disk. --data must be the same folder on every node. A run
takes one CPU and, on GPUs, the share 1 / nproc of one.
"""

import contextlib
import glob
import hashlib
import json
import os
import platform
import time
from pathlib import Path

import run
from core.errors import Busy, UserError
from core.files import ROOT, write
from core.results import Output

MAX_IN_FLIGHT = 500  # runs submitted at a time: each has an open lock file
RETRIES = 5  # of a run whose node failed
POLL = 1  # seconds


def execute(runs, args, display):
    """As batches.local.execute; Ray is installed."""
    import ray

    code = {'working_dir': str(ROOT / 'src'), 'excludes': ['/tests', '__pycache__']}
    try:
        ray.init(args.address, runtime_env=code, log_to_driver=False, logging_level='ERROR')
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f'--address: no Ray cluster: {str(error).splitlines()[0]}') from error
    try:
        cuda = args.devices.startswith('cuda') or args.devices == 'auto' and ray.cluster_resources().get('GPU', 0) > 0
        resources = {'num_cpus': 1, 'num_gpus': 1 / args.nproc if cuda else 0}
        remote = ray.remote(**resources, max_retries=RETRIES, max_calls=1)(run_on_node)  # a process for each run
        here = hashlib.blake2b(os.fsencode(f'{platform.node()}{args.res.resolve()}'), digest_size=4).hexdigest()

        def submit(r):
            n_old = len(list(args.res.glob(f'{glob.escape(r.name)}.old-*.json')))  # after --fresh: a new folder there
            return remote.remote(r.arguments('cuda' if cuda else 'cpu', 1), f'{here}-{n_old}')

        submit_and_collect(ray, runs, submit, display)
    finally:
        ray.shutdown()


def submit_and_collect(ray, runs, submit, display):
    """Submit all runs that no other batch has locked, collect their results, try the locked ones again."""
    waiting = list(runs)
    with contextlib.ExitStack() as all_locks:
        running = {}  # reference -> run, its lock
        while waiting or running:
            for r in waiting[: MAX_IN_FLIGHT - len(running)]:
                with contextlib.suppress(Busy):
                    lock = contextlib.ExitStack()
                    lock.enter_context(r.checkpoint.lock())
                    all_locks.enter_context(lock)
                    waiting.remove(r)
                    if r.finished():
                        r.checkpoint.remove()
                        lock.close()
                        display.finish(r, 0)
                    else:
                        running[submit(r)] = r, lock
                        display.start(r)
            if not running:
                time.sleep(POLL)
                continue
            ready, _ = ray.wait(list(running), timeout=POLL)
            for reference in ready:
                r, lock = running.pop(reference)
                try:
                    code, log, files = ray.get(reference)
                    r.log.write_bytes(log)
                    if code == 0:
                        collect(r, files)
                    display.finish(r, code)
                except ray.exceptions.RayError as error:
                    r.log.write_text(str(error), encoding='utf-8')
                    display.finish(r, 1)
                lock.close()


def collect(r, files):
    """Write the files of a run, as read on its node; the record last."""
    r.output.back_up_existing(r.identity)
    for path, content in zip(r.output.files[:-1], files[:-1], strict=True):
        write(path, content)
    folder = os.path.relpath(r.identity.folder, ROOT)  # relative to this machine's repository
    r.output.save_record(json.loads(files[-1]) | {'folder': folder})
    r.checkpoint.remove()


def run_on_node(argv, folder):
    """A run on a node, beside its copy of the code. Returns the exit code, the log and the content of the files."""
    copy = Path(__file__).resolve().parents[1].name  # named by Ray by its content: other code has another folder
    name = Path(argv[argv.index('--output') + 1]).name
    output = Output(Path(ROOT, 'res', folder, copy, name), '--save' in argv)
    output.txt.parent.mkdir(parents=True, exist_ok=True)
    log = output.txt.with_suffix('.log')
    with open(log, 'a', encoding='utf-8') as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        while (code := run.cli([*argv, '--output', str(output.txt)])) == Busy.code:
            time.sleep(POLL)  # a process of an earlier batch is still running it
    return code, log.read_bytes(), [path.read_bytes() for path in output.files if code == 0]
