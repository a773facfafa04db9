"""Scaling of time and memory with the number of tasks and of processes, and the time to start a run.

tasks      one run of HAT on many tasks of permuted MNIST: seconds of an epoch and of testing on all tasks so far, sizes
           of the network and the log
processes  run_multi.py with several runs of the demo at a time: runs an hour
batch      run_multi.py with many tiny runs, one after the other: seconds a run beside training and testing
start      imports of run.py; loading the data of the mixture in full size (random images: 1 GB in tmp/ meanwhile)
"""

import json
import math
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from core import results
from core.arguments import Parser, count, few, names, parallel, width
from core.errors import UserError, last_words
from core.files import ROOT
from core.text_tables import markdown

SRC = Path(__file__).resolve().parents[1]
EXAMPLES = """\
examples:
  python src/benchmark.py scaling --measure tasks --data DIR --ntasks 50
  python src/benchmark.py scaling --measure processes --device cuda --processes 1,2,4,8
"""
IMPORT = 'import time; t = time.perf_counter(); import run; print(time.perf_counter() - t)'
CALL = 'import sys; from benchmarks import scaling; scaling.{}(sys.argv[1])'


def parse(argv):
    parser = Parser(__doc__, EXAMPLES, prog='benchmark.py scaling')
    parser.add_argument('--measure', type=names(MEASURES), default=list(MEASURES), metavar='A,B', help='some of '
                        f'{", ".join(MEASURES)} (default all)')  # fmt: skip
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:N or mps (default cpu)')
    parser.add_argument('--data', type=Path, default=ROOT / 'dat', metavar='DIR', help='with mnist.npz (default dat)')
    parser.add_argument('--ntasks', type=few, default=50, metavar='N', help='(default 50)')
    parser.add_argument('--ntrain', type=count, default=1000, metavar='N', help='images a task (default 1000)')
    parser.add_argument('--nepochs', type=count, default=2, metavar='N', help='a task (default 2)')
    parser.add_argument('--width', type=width, default=0.25, metavar='W', help='of hidden layers (default 0.25)')
    parser.add_argument('--runs', type=few, default=100, metavar='N', help='of the batch (default 100)')
    parser.add_argument('--processes', type=numbers, default='1,2', metavar='N,N,...', help='runs at a time '
                        '(default 1,2)')  # fmt: skip
    return parser.parse_args(argv)


def numbers(text):
    return [parallel(part) for part in text.split(',')]


def main(argv):
    args = parse(argv)
    (ROOT / 'tmp').mkdir(exist_ok=True)
    for name in args.measure:
        with tempfile.TemporaryDirectory(dir=ROOT / 'tmp') as folder:
            print(MEASURES[name](args, Path(folder)), end='\n\n', flush=True)


def start(args, folder):
    """Medians of five."""
    imports = statistics.median(float(python('-c', IMPORT)) for _ in range(5))
    python('-c', CALL.format('write_random_data'), folder)
    seconds, images = zip(*(python('-c', CALL.format('time_loading'), folder).split() for _ in range(5)), strict=True)
    cells = [f'{imports:.2f}', f'{statistics.median(map(float, seconds)):.2f}', f'{int(images[0]):,}']
    return markdown(['imports of run.py, s', 'data of the mixture, s', 'images'], [cells])


def write_random_data(folder):
    """The data sets of the mixture with random pixels, in full size."""
    from dataloaders import npz
    from dataloaders.archives import sources
    from dataloaders.archives.normalization import NORMALIZATION

    rng = np.random.default_rng(0)
    for name, source in sources.SOURCES.items():
        shape = (28, 28, 1) if len(NORMALIZATION[name][0]) == 1 else (32, 32, 3)
        arrays = []
        for n in source.n_train, source.n_test:
            arrays += [rng.integers(0, 256, (n, *shape), dtype=np.uint8), np.arange(n) % source.n_classes]
        npz.write(Path(folder) / f'{name}.npz', arrays)


def time_loading(folder):
    """Print the seconds to load the mixture, and its number of images."""
    import dataloaders

    begun = time.perf_counter()
    loaded = dataloaders.load('mixture', Path(folder), 0)
    seconds = time.perf_counter() - begun
    print(seconds, sum(len(task.train.y) + len(task.valid.y) + len(task.test.y) for task in loaded))


def tasks(args, folder):
    output = folder / 'pmnist_hat_0.txt'
    peak = python('run.py', '--approach', 'hat', '--experiment', 'pmnist', '--ntasks', args.ntasks, '--ntrain',
                  args.ntrain, '--nepochs', args.nepochs, '--width', args.width, '--device', args.device, '--data',
                  args.data.resolve(), '--output', output, '--save', peak=True)  # fmt: skip
    record = results.load_record(output.with_suffix('.json'))
    epochs, testing = record['times']['epochs'], record['times']['testing']
    reported = sorted({0, *range(9, args.ntasks, 10), args.ntasks - 1})
    rows = [[str(t + 1), f'{sum(epochs[t]) / len(epochs[t]):.2f}', f'{testing[t]:.2f}',
             f'{sum(map(sum, epochs[: t + 1])):.0f}', f'{sum(testing[: t + 1]):.0f}',
             f'{len(json.dumps(record["epochs"][t])) / 1000:.1f}'] for t in reported]  # fmt: skip
    head = ['task', 'an epoch, s', 'testing after it, s', 'training so far, s', 'testing so far, s', 'log of it, kB']
    sizes = [path.stat().st_size / 1e6 for path in (output.with_suffix('.pt'), output.with_suffix('.json'))]
    return (f'{markdown(head, rows)}\n\nnetwork {sizes[0]:.1f} MB, record {sizes[1]:.2f} MB, peak of memory '
            f'{peak / 1e6:.0f} MB, {record["times"]["total"]:.0f} s in all')  # fmt: skip


def processes(args, folder):
    rows, first = [], None
    for n in args.processes:
        (folder / str(n)).mkdir()
        begun = time.perf_counter()
        python('run_multi.py', '--experiments', 'demo', '--approaches', 'hat', '--seeds', f'0-{n - 1}', '--nproc', n,
               '--devices', args.device, '--res', folder / str(n))  # fmt: skip
        an_hour = 3600 * n / (time.perf_counter() - begun)
        first = first or an_hour
        rows.append([str(n), f'{an_hour:.0f}', f'{an_hour / first:.2f}'])
    return markdown(['processes', 'runs an hour', f'x those of {args.processes[0]}'], rows)


def batch(args, folder):
    """One task of permuted MNIST, 100 images, one epoch."""
    begun = time.perf_counter()
    python('run_multi.py', '--experiments', 'pmnist', '--approaches', 'sgd', '--seeds', f'0-{args.runs - 1}',
           '--devices', args.device, '--res', folder, '--', '--ntasks', 1, '--ntrain', 100, '--nepochs', 1, '--width',
           0.1, '--data', args.data.resolve())  # fmt: skip
    seconds = time.perf_counter() - begun
    work = sum(results.load_record(path)['times']['total'] for path in folder.glob('*.json')) / args.runs
    cells = [f'{s:.2f}' for s in (seconds / args.runs, work, seconds / args.runs - work)]
    header = ['runs', 'seconds a run', 'of it loading, training, testing', 'the rest']
    return markdown(header, [[str(args.runs), *cells]])


MEASURES = {'start': start, 'tasks': tasks, 'processes': processes, 'batch': batch}


def python(*command, peak=False):
    """The output of a Python process in src; or its peak of memory, in bytes."""
    with tempfile.TemporaryFile('w+', encoding='utf-8') as out:
        process = subprocess.Popen([sys.executable, *map(str, command)], cwd=SRC, stdout=out, stderr=subprocess.PIPE)
        error = process.stderr.read().decode(errors='replace')
        if hasattr(os, 'wait4'):
            _, status, usage = os.wait4(process.pid, 0)
            status = os.waitstatus_to_exitcode(status)
            peak_bytes = usage.ru_maxrss * (1 if sys.platform == 'darwin' else 1024)
        else:  # Windows
            status, peak_bytes = process.wait(), math.nan
        if status:
            raise UserError(f'{command[0]} failed: {last_words(error, status)}')
        out.seek(0)
        return peak_bytes if peak else out.read()
