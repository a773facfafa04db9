"""Batches of runs, here or on a Ray cluster: what run_multi.py and work.py share.

What is done is skipped; what fails stops nothing else; a batch that is killed is finished by the same command. Two
batches may share runs: who finds one taken waits for its result.
"""

import os
import shlex
import sys
from pathlib import Path

import torch

from batches.progress import Board
from core.arguments import parallel
from core.device import choose_device, cores
from core.errors import Busy, require
from core.files import ROOT
from core.results import make_folder


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
            from batches import ray_cluster

            ray_cluster.execute(todo, args, board)
        else:
            from batches import local

            local.execute(todo, slots, threads, board)
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
