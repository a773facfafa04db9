"""Does this machine compute what it should? Two minutes; the first thing to run on a new GPU.

Two small tasks of the demo are learned by each approach: twice (the same bits?), and, where steps are captured, once
with eager ones (the same weights?). Loss and gradients of the network as it starts are compared with those of the CPU.
Then the time of a training step, on a GPU at full width, beside its lower bound.
"""

import argparse
import statistics
import time

import torch

import dataloaders
from approaches import APPROACHES, base, build, canonical
from approaches.common.steps import Steps, eagerly
from approaches.common.training import Protocol
from benchmarks.workers import MachinePeak, TrainingSetup, lower_bound
from core.arguments import Parser, names
from core.device import describe, setup_device, versions
from core.files import ROOT
from core.text_tables import markdown

TASKS, IMAGES, EPOCHS, WIDTH = 2, 500, 2, 0.25
CLOSE = 1e-3  # of float32: captured and eager steps, GPU and CPU; a wrong step differs by far more
HEAD = ['approach', 'same bits twice', 'captured = eager', 'as on the CPU', 'memory, MB', 'seconds']
SPEED = ['approach', 'step, ms', 'lower bound, ms', 'eager loop, ms']


def parse(argv):
    parser = Parser(__doc__, prog='run.py --selftest')
    parser.add_argument('--device', default='auto', help='auto, cpu, cuda, cuda:N or mps (default auto)')
    parser.add_argument('--approaches', type=names(APPROACHES, canonical), default=list(APPROACHES), metavar='A,B,...',
                        help='(default all)')  # fmt: skip
    return parser.parse_args([a for a in argv if a != '--selftest'])


def main(argv):
    """Returns the exit code: 1 if something is wrong."""
    args = parse(argv)
    device = setup_device(args.device)
    print(f'{describe(device)}; {", ".join(" ".join(each) for each in versions().items())}', flush=True)
    tasks = dataloaders.load('demo', ROOT / 'dat', 0, None, TASKS, IMAGES)
    rows, faults = [], []
    for name in args.approaches:
        row, wrong = check(name, tasks, device)
        rows.append([name, *row])
        faults += [f'{name}: {each}' for each in wrong]
        print(f'{name}: {"; ".join(wrong) or "all right"}', flush=True)
    print(f'\n{markdown(HEAD, rows)}\n')
    print(markdown(SPEED, list(speed([n for n in args.approaches if n in ('hat', 'sgd')], device))))
    print(f'\n{"FAULTS: " + "; ".join(faults) if faults else "all right"}')
    return 1 if faults else 0


def check(name, tasks, device):
    """The cells under HEAD after the first, and what is wrong, a list of texts."""
    start, wrong = time.perf_counter(), []
    here = [task.to(device) for task in tasks]
    if device.type == 'cuda':
        torch.cuda.reset_peak_memory_stats()
    try:
        first, second = (learned(name, here) for _ in range(2))
        same = distance(first, second) == 0
        eager = distance(first, learned(name, here, Eager)) if device.type == 'cuda' else None
        cpu = distance(beginning(name, here), beginning(name, tasks)) if device.type != 'cpu' else None
    except Exception as error:  # of one approach: the others are tried, too
        return ['-'] * (len(HEAD) - 1), [f'{type(error).__name__}: {" ".join(str(error).split())[:300]}']
    wrong += [] if same else ['two runs differ']
    wrong += ['captured steps differ from eager ones'] if eager is not None and not eager < CLOSE else []
    wrong += ['not as on the CPU'] if cpu is not None and not cpu < CLOSE else []
    memory = f'{torch.cuda.max_memory_allocated() / 1e6:.0f}' if device.type == 'cuda' else '-'
    shown = ['-' if value is None else f'{value:.0e}' for value in (eager, cpu)]
    return ['yes' if same else 'NO', *shown, memory, f'{time.perf_counter() - start:.1f}'], wrong


class Eager(Steps):
    def __init__(self, *args):
        super().__init__(*args)
        self.run = self.run_rest = eagerly


def learned(name, tasks, steps=Steps):
    """The state of an approach that has learned the tasks: tensors by name."""
    ours, base.Steps = base.Steps, steps
    try:
        approach = build(name, 'demo', tasks, Protocol(nepochs=EPOCHS, batch_size=32), WIDTH)
        for t in range(len(tasks)):
            approach.learn(t)
    finally:
        base.Steps = ours
    return approach.net.state_dict() if name != 'random' else {}


def beginning(name, tasks):
    """Loss and gradients of the first validation images, without dropout, before any step."""
    if name == 'random':
        return {}
    approach = build(name, 'demo', tasks, Protocol(), WIDTH)
    approach.before_task(0)
    approach.net.eval()
    task = tasks[0]
    # at the start of an epoch: at its end float32 has few bits of HAT's gradient left (section 2.5)
    loss, _ = approach.loss(*task.batch(task.valid, slice(0, 64)), 0, 0.0)
    loss.backward()
    return {'loss': loss.detach()} | {k: p.grad for k, p in approach.net.named_parameters() if p.grad is not None}


def distance(a, b):
    """The largest ||x - y|| / ||y|| of the tensors of two dicts; inf if their names differ; nan if a tensor has one."""
    if a.keys() != b.keys():
        return float('inf')
    pairs = [(a[k].double().cpu(), b[k].double().cpu()) for k in a]
    ratios = [0.0, *((x - y).norm() / y.norm().clamp_min(1e-12) for x, y in pairs if not torch.equal(x, y))]
    return float(torch.tensor(ratios).max())


def speed(approaches, device):
    """The cells under SPEED, of steps at full width."""
    args = argparse.Namespace(experiment='demo', data=ROOT / 'dat', ntrain=2 * IMAGES, batch_size=64,
                              width=1.0 if device.type == 'cuda' else WIDTH, device=str(device))  # fmt: skip
    peak = MachinePeak(device)
    rates = [peak.measure() for _ in range(4)][1:]
    flops, bandwidth = (statistics.median(each) for each in zip(*rates, strict=True))
    for name in approaches:
        ours, eager = (TrainingSetup(args, name, eager=each) for each in (False, True))
        profile = ours.profile()
        n = profile['images'] / args.batch_size
        times = [(ours.epoch()[0] / n, eager.epoch()[0] / n) for _ in range(6)][1:]
        bound = lower_bound(profile, flops, bandwidth)
        step, loop = (statistics.median(each) for each in zip(*times, strict=True))
        yield [name, *(f'{1000 * each:.2f}' for each in (step, bound, loop))]
