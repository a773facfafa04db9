"""How fast the approaches train and evaluate: against a plain eager loop, and against what the machine can do.

The second task of an experiment is trained, an epoch at a time, by each approach as run.py does it and by the plain
loop of eager_loop.py, interleaved, in one process. A second plain loop, in a process of its own, runs with PyTorch's
default settings for memory and tiny numbers instead of those of core/device.py. Times are medians; ratios are medians
of the ratios within a round.
"""

import json
import statistics
import sys
from pathlib import Path

import dataloaders
from approaches import APPROACHES, canonical
from benchmarks.workers import Apart, Rates, Work
from core.arguments import Parser, count, few, names, width
from core.device import choose_device, describe, versions
from core.errors import UserError
from core.files import ROOT, atomic
from core.text_tables import markdown

EXAMPLES = """\
examples:
  python src/benchmark.py
  python src/benchmark.py --approaches all --experiment mixture --data DIR
"""
HEAD = ['approach', 'step, ms', 'images/s', 'evaluation of 64, ms', 'epoch, s', 'memory, MB', 'step: against sgd',
        'floor, ms', 'against the floor', 'plain loop: step, ms', 'plain loop: epoch, s', 'step: times as fast',
        'epoch: times as fast', 'as it comes: step', 'as it comes: epoch']  # fmt: skip
WAYS = 'ours', 'plain', 'as it comes'


def parse(argv):
    trained = {name: a for name, a in APPROACHES.items() if name != 'random'}
    parser = Parser(__doc__, EXAMPLES, prog='benchmark.py speed')
    parser.add_argument('--approaches', type=names(trained, canonical), default=['hat', 'sgd'], metavar='A,B,...',
                        help='or all (default hat,sgd)')  # fmt: skip
    parser.add_argument('--experiment', choices=dataloaders.EXPERIMENTS, default='demo', help='(default demo)')
    parser.add_argument('--data', type=Path, default=ROOT / 'dat', metavar='DIR', help='(default dat)')
    parser.add_argument('--ntrain', type=count, default=1500, metavar='N', help='images of an epoch, 15 %% of them for '
                        'validation (default 1500)')  # fmt: skip
    parser.add_argument('--width', type=width, default=1.0, metavar='W', help='of all hidden layers (default 1)')
    parser.add_argument('--batch-size', type=count, default=64, metavar='N', help='(default 64)')
    parser.add_argument('--rounds', type=few, default=9, metavar='N', help='turns that are measured (default 9)')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N or mps (default auto)')
    parser.add_argument('--output', type=Path, default=ROOT / 'res' / 'speed.json', metavar='FILE.json',
                        help='all times and settings (default res/speed.json)')  # fmt: skip
    args = parser.parse_args(argv)
    if args.ntrain - args.ntrain * 15 // 100 < args.batch_size:
        raise UserError(
            f'--ntrain: {args.ntrain} images, less those of validation, do not make a batch of {args.batch_size}'
        )
    if args.output.is_dir():
        raise UserError(f'--output: {args.output} is a folder; give a file name')
    if not args.output.parent.is_dir():
        raise UserError(f'--output: there is no folder {args.output.parent}')
    return args


def main(argv):
    args = parse(argv)
    device = choose_device(args.device)
    args.device = str(device)
    dataloaders.load(args.experiment, args.data, 0, None, 2, args.ntrain)  # what is wrong is said before all else
    print(f'{args.experiment}, width {args.width:g}, {args.ntrain} images, batches of {args.batch_size}, '
          f'{describe(device)}; {args.rounds} turns', flush=True)  # fmt: skip
    rates, times, speeds = Rates(device), {}, []
    apart = {name: Apart(args, name, True, False) for name in args.approaches}
    works = {(name, way): Work(args, name, way == 'plain') for name in args.approaches for way in WAYS[:2]}
    try:
        for turn in range(args.rounds + 1):
            for name in args.approaches:
                seconds = [works[name, 'ours'].epoch(), works[name, 'plain'].epoch(), apart[name].ask('epoch')]
                for way, each in zip(WAYS, seconds, strict=True):
                    times.setdefault((name, way), []).append(each)
            speeds.append(rates.measure())
            print(f'turn {turn} of {args.rounds}', file=sys.stderr, flush=True)
    finally:
        for each in apart.values():
            each.close()
    times, speeds = {key: each[1:] for key, each in times.items()}, speeds[1:]  # the first turn warms up
    flops, bandwidth = (statistics.median(each) for each in zip(*speeds, strict=True))
    facts = {name: alone(args, name) for name in args.approaches}
    rows = [row(name, args, times, facts, flops, bandwidth) for name in args.approaches]
    print(f'large matrix product {flops / 1e9:.0f} GFLOP/s, large copy {bandwidth / 1e9:.0f} GB/s (medians)\n')
    print(markdown(HEAD, rows))
    with atomic(args.output) as part:
        part.write_text(json.dumps({
            'arguments': {key: str(value) for key, value in vars(args).items()}, 'device': describe(device),
            'versions': versions(), 'flops_per_second': flops, 'bytes_per_second': bandwidth, 'facts': facts,
            'seconds': [{'approach': n, 'way': w, 'train, train again, valid': each} for (n, w), each in times.items()],
            'table': [dict(zip(HEAD, each, strict=True)) for each in rows],
        }, indent=1), encoding='utf-8')  # fmt: skip


def alone(args, name):
    """Facts about an approach, its memory among them."""
    process = Apart(args, name, False)
    facts = process.ask('facts')
    process.close()
    return facts


def row(name, args, times, facts, flops, bandwidth):
    """One line of the table."""
    fact = facts[name]
    n_batches, evaluations = (-(-fact[key] // args.batch_size) for key in ('images', 'valid'))
    step = {way: [train / n_batches for train, *_ in times[name, way]] for way in WAYS}
    epoch = {way: [sum(parts) for parts in times[name, way]] for way in WAYS}
    valid = statistics.median(valid for *_, valid in times[name, 'ours']) / evaluations
    ours, floor = statistics.median(step['ours']), max(fact['flops'] / flops, fact['bytes'] / bandwidth)
    sgd = [train / n_batches for train, *_ in times['sgd', 'ours']] if 'sgd' in args.approaches else []
    return [name, f'{1000 * ours:.1f}', f'{args.batch_size / ours:.0f}', f'{1000 * valid:.1f}',
            f'{statistics.median(epoch["ours"]):.2f}', f'{fact["peak"] / 1e6:.0f}' if fact['peak'] else '-',
            f'{ratio(step["ours"], sgd):.2f}' if sgd else '', f'{1000 * floor:.1f}', f'{ours / floor:.2f}',
            f'{1000 * statistics.median(step["plain"]):.1f}', f'{statistics.median(epoch["plain"]):.2f}',
            *(f'{ratio(each[way], each["ours"]):.2f}' for way in WAYS[1:] for each in (step, epoch))]  # fmt: skip


def ratio(times, others):
    """Median over the turns."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))
