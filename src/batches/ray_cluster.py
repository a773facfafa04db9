"""Batches of runs on a Ray cluster, an optional dependency: pip install ray, on all nodes.

Ray brings the code to the nodes, runs what fits on each, and repeats the runs of a node that died. A result comes back
as the return value and is written here, whether or not the nodes share a disk. --data must name the same folder
everywhere. A run takes one CPU, and on GPUs the share 1 / nproc of one.
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
from core.files import ROOT, atomic
from core.results import Output

MOST = 500  # runs handed in at a time: each has an open lock file
RETRIES = 5  # of a run whose node died
POLL = 1  # seconds


def execute(runs, args, board):
    """As batch.execute_here; Ray is installed."""
    import ray

    code = {'working_dir': str(ROOT / 'src'), 'excludes': ['/tests', '__pycache__']}
    try:
        ray.init(args.address, runtime_env=code, log_to_driver=False, logging_level='ERROR')
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UserError(f'--address: no Ray cluster: {str(error).splitlines()[0]}') from error
    try:
        cuda = args.devices.startswith('cuda') or args.devices == 'auto' and ray.cluster_resources().get('GPU', 0) > 0
        share = {'num_cpus': 1, 'num_gpus': 1 / args.nproc if cuda else 0}
        remote = ray.remote(**share, max_retries=RETRIES, max_calls=1)(on_node)  # a process for each run
        here = hashlib.blake2b(os.fsencode(f'{platform.node()}{args.res.resolve()}'), digest_size=4).hexdigest()

        def submit(r):
            kept = len(list(args.res.glob(f'{glob.escape(r.name)}.old-*.json')))  # --fresh: the nodes start over, too
            return remote.remote(r.on('cuda' if cuda else 'cpu', 1), f'{here}-{kept}')

        follow(ray, runs, submit, board)
    finally:
        ray.shutdown()


def follow(ray, runs, submit, board):
    """Hand in all runs that no other batch has taken, collect what comes back, try the others again."""
    waiting = list(runs)
    with contextlib.ExitStack() as all_locks:
        going = {}  # reference -> run, its lock
        while waiting or going:
            for r in waiting[: MOST - len(going)]:
                with contextlib.suppress(Busy):
                    held = contextlib.ExitStack()
                    held.enter_context(r.checkpoint.lock())
                    all_locks.enter_context(held)
                    waiting.remove(r)
                    if r.finished():
                        r.checkpoint.remove()
                        held.close()
                        board.end(r, 0)
                    else:
                        going[submit(r)] = r, held
                        board.begin(r)
            if not going:
                time.sleep(POLL)
                continue
            ready, _ = ray.wait(list(going), timeout=POLL)
            for reference in ready:
                r, held = going.pop(reference)
                try:
                    code, log, files = ray.get(reference)
                    r.log.write_bytes(log)
                    if code == 0:
                        collect(r, files)
                    board.end(r, code)
                except ray.exceptions.RayError as error:
                    r.log.write_text(str(error), encoding='utf-8')
                    board.end(r, 1)
                held.close()


def collect(r, files):
    r.output.make_way(r.identity)
    for path, content in zip(r.output.files[:-1], files[:-1], strict=True):
        with atomic(path) as part:
            part.write_bytes(content)
    folder = os.path.relpath(r.identity.folder, ROOT)  # as seen from here
    r.output.save_record(json.loads(files[-1]) | {'folder': folder})
    r.checkpoint.remove()


def on_node(argv, folder):
    """One run on a node, beside its copy of the code. Returns the exit code, the log and the results."""
    code = Path(__file__).resolve().parents[1].name  # Ray names it by its content: results of older code are not ours
    name = Path(argv[argv.index('--output') + 1]).name
    output = Output(Path(ROOT, 'res', folder, code, name), '--save' in argv)
    output.txt.parent.mkdir(parents=True, exist_ok=True)
    log = output.txt.with_suffix('.log')
    with open(log, 'a', encoding='utf-8') as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        while (code := run.cli([*argv, '--output', str(output.txt)])) == Busy.code:
            time.sleep(POLL)  # a process of a batch that is gone is still at it
    return code, log.read_bytes(), [path.read_bytes() for path in output.files if code == 0]
