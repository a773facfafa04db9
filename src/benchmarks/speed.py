"""Speed of training and evaluation, compared with an eager loop and with a lower bound.

The second task of an experiment is trained, an epoch at a time, by each approach as in run.py and by the eager loop of
eager_loop.py, interleaved, in one process. The eager loop also runs in a worker process with PyTorch's default settings
for memory and denormal numbers, without those of core/device.py. The lower bound is the time for the FLOPs of a step at
the rate of a large matrix product, or for its bytes at the rate of a large copy, whichever is longer. Times are medians
over the rounds; ratios are medians of the ratios within a round.
"""

import json
import statistics
import sys
from pathlib import Path

import dataloaders
from approaches import APPROACHES, canonical
from benchmarks.workers import MachinePeak, TrainingSetup, WorkerProcess, lower_bound
from core.arguments import Parser, count, few, names, width
from core.device import describe, setup_device, versions
from core.errors import UserError
from core.files import ROOT, write
from core.text_tables import markdown
from dataloaders.options import is_own

EXAMPLES = """\
examples:
  python src/benchmark.py
  python src/benchmark.py --approaches all --experiment mixture --data DIR
"""
EVALUATED = 64  # images of which the time of evaluation is told
SETUPS = 'ours', 'eager loop', 'eager loop, PyTorch defaults'


def parse(argv):
    trained = {name: a for name, a in APPROACHES.items() if name != 'random'}
    parser = Parser(__doc__, EXAMPLES, prog='benchmark.py speed')
    parser.add_argument('--approaches', type=names(trained, canonical), default=['hat', 'sgd'], metavar='A,B,...',
                        help='or all (default hat,sgd)')  # fmt: skip
    fixed = [name for name in dataloaders.EXPERIMENTS if not is_own(name)]
    parser.add_argument('--experiment', choices=fixed, default='demo', help='(default demo)')
    parser.add_argument('--data', type=Path, default=ROOT / 'dat', metavar='DIR', help='(default dat)')
    parser.add_argument('--ntrain', type=count, default=1500, metavar='N', help='images of an epoch, 15 %% of them for '
                        'validation (default 1500)')  # fmt: skip
    parser.add_argument('--width', type=width, default=1.0, metavar='W', help='of all hidden layers (default 1)')
    parser.add_argument('--batch-size', type=count, default=64, metavar='N', help='(default 64)')
    parser.add_argument('--rounds', type=few, default=9, metavar='N', help='after one of warm-up (default 9)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N or mps (default auto)')
    parser.add_argument('--output', type=Path, default=ROOT / 'res' / 'speed.json', metavar='FILE.json',
                        help='all times and settings (default res/speed.json)')  # fmt: skip
    args = parser.parse_args(argv)
    n = args.ntrain - args.ntrain * 15 // 100
    if n < args.batch_size:
        raise UserError(f'--ntrain: without those for validation, {n} images are less than a batch, {args.batch_size}')
    if args.output.is_dir():
        raise UserError(f'--output: {args.output} is a folder; give a file name')
    if not args.output.parent.is_dir():
        raise UserError(f'--output: there is no folder {args.output.parent}')
    return args


def main(argv):
    args = parse(argv)
    device = setup_device(args.device)
    args.device = str(device)
    dataloaders.load(args.experiment, args.data, 0, None, 2, args.ntrain)  # raises its errors before workers start
    print(f'{args.experiment}, width {args.width:g}, {args.ntrain} images, batches of {args.batch_size}, '
          f'{describe(device)}; {args.rounds} rounds', flush=True)  # fmt: skip
    times, (flops, bandwidth) = measure(args, device)
    profiles = {name: profile(args, name) for name in args.approaches}
    rows = [row(name, args, times, profiles[name], flops, bandwidth) for name in args.approaches]
    print(f'large matrix product {flops / 1e9:.0f} GFLOP/s, large copy {bandwidth / 1e9:.0f} GB/s (medians)\n')
    print(markdown(list(rows[0]), [row.values() for row in rows]))
    record = {
        'arguments': {key: str(value) for key, value in vars(args).items()}, 'device': describe(device),
        'versions': versions(), 'flops_per_second': flops, 'bytes_per_second': bandwidth, 'facts': profiles,
        'seconds': [{'approach': n, 'way': s, 'train, train again, valid': each} for (n, s), each in times.items()],
        'table': rows,
    }  # fmt: skip
    write(args.output, json.dumps(record, indent=1))


def measure(args, device):
    """Times, (approach, setup) -> TrainingSetup.epoch() of each round; and the medians of MachinePeak.measure()."""
    peak, peaks, times = MachinePeak(device), [], {}
    workers = {name: WorkerProcess(args, name, True, False) for name in args.approaches}
    local = {(name, eager): TrainingSetup(args, name, eager) for name in args.approaches for eager in (False, True)}
    try:
        for number in range(args.rounds + 1):
            for name in args.approaches:
                measured = local[name, False].epoch(), local[name, True].epoch(), workers[name].call('epoch')
                for setup, seconds in zip(SETUPS, measured, strict=True):
                    times.setdefault((name, setup), []).append(seconds)
            peaks.append(peak.measure())
            print(f'round {number} of {args.rounds}', file=sys.stderr, flush=True)
    finally:
        for worker in workers.values():
            worker.close()
    times = {key: rounds[1:] for key, rounds in times.items()}  # the first round is the warm-up
    return times, [statistics.median(rates) for rates in zip(*peaks[1:], strict=True)]


def profile(args, name):
    """TrainingSetup.profile() of an approach, in a process of its own for the peak of memory."""
    worker = WorkerProcess(args, name, False)
    result = worker.call('profile')
    worker.close()
    return result


def row(name, args, times, profile, flops, bandwidth):
    """The line of an approach: column -> cell. times, flops, bandwidth: of measure(); profile: of profile()."""
    n_batches = profile['images'] / args.batch_size  # the last one may be smaller
    step = {setup: [train / n_batches for train, *_ in times[name, setup]] for setup in SETUPS}
    epoch = {setup: [sum(parts) for parts in times[name, setup]] for setup in SETUPS}
    ours, eager = (statistics.median(step[setup]) for setup in ('ours', 'eager loop'))
    evaluation = statistics.median(valid for *_, valid in times[name, 'ours']) * EVALUATED / profile['valid']
    bound = lower_bound(profile, flops, bandwidth)
    sgd = [train / n_batches for train, *_ in times['sgd', 'ours']] if 'sgd' in args.approaches else []
    cells = {
        'approach': name,
        'step, ms': f'{1000 * ours:.1f}',
        'images/s': f'{args.batch_size / ours:.0f}',
        f'evaluation of {EVALUATED}, ms': f'{1000 * evaluation:.1f}',
        'epoch, s': f'{statistics.median(epoch["ours"]):.2f}',
        'memory, MB': f'{profile["peak"] / 1e6:.0f}' if profile['peak'] else '-',
        'step, x sgd': f'{ratio(step["ours"], sgd):.2f}' if sgd else '',
        'lower bound, ms': f'{1000 * bound:.1f}',
        'step, x lower bound': f'{ours / bound:.2f}',
        'eager loop: step, ms': f'{1000 * eager:.1f}',
        'eager loop: epoch, s': f'{statistics.median(epoch["eager loop"]):.2f}',
    }
    for setup, speed_up in zip(SETUPS[1:], ('speed-up', 'speed-up, PyTorch defaults'), strict=True):
        for what, seconds in ('step', step), ('epoch', epoch):
            cells[f'{speed_up}: {what}'] = f'{ratio(seconds[setup], seconds["ours"]):.2f}'
    return cells


def ratio(times, others):
    """The median of the ratios within a round."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
