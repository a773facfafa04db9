"""Batches of runs, on this machine or on a Ray cluster: what run_multi.py and work.py share.

Finished runs are skipped; a failed run does not stop the others; repeating the command completes an interrupted batch.
Two batches may share runs: each waits for the results of runs that the other has locked.
"""

import os
import shlex
import sys
from pathlib import Path

import torch

from batches.progress import ProgressDisplay
from core.arguments import parallel
from core.device import cores, parse_device
from core.errors import Busy, UserError, require
from core.files import ROOT
from core.results import make_folder


def add_options(parser):
    parser.add_argument('--res', type=Path, default=ROOT / 'res', metavar='DIR', help='folder of the results and of a '
                        'log of each run; made if it does not exist (default res)')  # fmt: skip
    parser.add_argument('--devices', default='auto', metavar='D,D,...', help='cpu, mps, or cuda:0,cuda:1 ... (default '
                        'auto: all CUDA devices, else cpu)')  # fmt: skip
    parser.add_argument('--nproc', type=parallel, default=1, metavar='K', help='runs at a time on each device; on the '
                        'CPU they share the cores (default 1)')  # fmt: skip
    parser.add_argument('--engine', choices=('local', 'ray'), default='local', help='this machine, or a Ray cluster '
                        '(needs: pip install ray)')  # fmt: skip
    parser.add_argument('--address', metavar='HOST:PORT', help='of the Ray cluster (default: as ray.init finds it)')
    parser.add_argument('--fresh', action='store_true', help='repeat all runs from scratch; renames existing results '
                        'to .old-1, .old-2 ...; to resume an interrupted batch, leave it out')  # fmt: skip
    parser.add_argument('--stale', choices=('keep', 'redo'), help='results and checkpoints of other code, as of run.py')
    parser.add_argument('--dry-run', action='store_true', help='only print the commands')


def split_arguments(argv):
    """Our own arguments, and those after --, for run.py."""
    argv = list(sys.argv[1:] if argv is None else argv)
    at = argv.index('--') if '--' in argv else len(argv)
    return argv[:at], argv[at + 1 :]


def execute(runs, args):
    """Do all runs that are not finished. Returns the exit code: 1 if a run failed."""
    is_local = args.engine == 'local'
    if is_local and args.address:
        raise UserError('--address: --engine local does not take it; add --engine ray')
    if not is_local:
        require('--engine ray needs Ray', 'ray')
    devices = parse_devices(args.devices) if is_local else [device_of_cluster(args.devices)]
    slots = [device for device in devices for _ in range(args.nproc)]
    threads = max(1, cores() // len(slots)) if is_local else 1  # of each run on the CPU
    if args.dry_run:
        for r in runs:
            if args.fresh or not r.finished():
                print(shlex.join(r.command(devices[0], threads)))
        return 0
    make_folder(args.res)
    if args.fresh:
        reset(runs)
    finished, remaining = [], []
    for r in runs:
        (finished if r.finished() else remaining).append(r)
    for r in finished:
        r.remove_checkpoint()
    if remaining and is_local:
        chosen = sorted({str(r.threads or threads) for r in remaining})
        counts = os.environ.get('OMP_NUM_THREADS') or ', '.join(chosen)
        print(f'runs at a time: {len(slots)}, on {", ".join(devices)}; CPU threads of each: {counts}', flush=True)
    announce(finished, remaining)
    display = ProgressDisplay(len(runs), len(finished))
    try:
        if is_local:
            from batches import local

            local.execute(remaining, slots, threads, display)
        else:
            from batches import ray_cluster

            ray_cluster.execute(remaining, args, display)
    finally:
        display.close()
    return 1 if display.failed else 0


def reset(runs):
    """Remove checkpoints and rename results, of all runs or, if one is locked, of none. Raises Busy."""
    if locked := next((r for r in runs if r.is_locked()), None):
        raise Busy(f'{locked.output.txt}: this run is locked by another process; no run was started')
    for r in runs:
        r.reset()


def announce(finished, remaining):
    """Print which results are of other code, and which will be replaced."""
    if stale := [r.name for r in finished if r.output.stale(r.identity)]:
        print(f'finished, but computed by other code: {named(stale)}; repeat with --stale redo', flush=True)
    if replaced := [r.name for r in remaining if r.replaces()]:
        print(f'results that will be renamed to .old-1, ..., and computed anew: {named(replaced)}', flush=True)


def named(names):
    return names[0] if len(names) == 1 else f'{names[0]} and {len(names) - 1} more'


def parse_devices(text):
    """The devices in --devices. Does not initialize CUDA: only the processes of the runs do. Raises UserError."""
    if text != 'auto':
        return [str(parse_device(name)) for name in text.split(',')]
    return [f'cuda:{i}' for i in range(torch.cuda.device_count())] or ['cpu']


def device_of_cluster(text):
    """Ray chooses which of a kind: auto, cpu or cuda, from --devices. Raises UserError."""
    kind, *others = {name.partition(':')[0] for name in text.split(',')}
    if others or kind not in ('auto', 'cpu', 'cuda'):
        raise UserError(f'--devices: {text!r} is none of auto, cpu, cuda, of which --engine ray takes one')
    return kind
