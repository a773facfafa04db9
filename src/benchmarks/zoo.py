"""Networks of torchvision and timm, converted to hard attention: checks and times, as a table.

Each network, with random weights, is converted for three tasks. With all gates open its outputs are compared with those
of the original; then it learns the tasks with one optimizer for all of them: are the first task's outputs still
bit-identical? Last, training steps of the converted and the original network are timed, interleaved: on a CPU in
processor time, which other processes disturb least.

With --all: the survey of benchmarks/survey.py, of all networks in benchmarks/networks.py, on the CPU.
"""

import multiprocessing
import statistics
import time
import warnings
from pathlib import Path

import torch
import torch.nn.functional as F

import hat
from benchmarks import networks
from benchmarks.survey import survey
from core.arguments import Parser, count, few, positive, words
from core.device import describe, setup_device
from core.errors import UserError, require
from core.text_tables import markdown

NETWORKS = {  # name -> source, and the argument for the size of the images, if it has one
    'resnet18': ('torchvision', None),
    'densenet121': ('torchvision', None),
    'mobilenet_v3_small': ('torchvision', None),
    'vgg11_bn': ('torchvision', None),
    'convnext_tiny': ('torchvision', None),
    'vit_b_16': ('torchvision', 'image_size'),
    'efficientnet_b0': ('timm', None),
    'regnety_002': ('timm', None),
    'vit_tiny_patch16_224': ('timm', 'img_size'),
    'resnetv2_50x1_bit': ('timm', None),
}
OPTIMIZERS = {
    'SGD, momentum': lambda p: torch.optim.SGD(p, lr=0.01, momentum=0.9),
    'AdamW': lambda p: torch.optim.AdamW(p, lr=1e-3, weight_decay=0.05),
}
HEAD = ['network', 'converts', 'largest difference, gates open', *(f'same after {name}' for name in OPTIMIZERS),
        'protected, %', 'parameters added, %']  # fmt: skip
TIMES = 'unconverted, ms', 'step, first task', 'step, third task'  # for each batch size
N_CLASSES, N_TASKS, STEPS = 10, 3, 4
WARM_UP = 3  # steps before times are measured
EXAMPLES = """\
examples:
  python src/benchmark.py zoo --networks resnet18,efficientnet_b0
  python src/benchmark.py zoo --all --source timm --output zoo.json
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES, prog='benchmark.py zoo')
    parser.add_argument('--networks', type=words, metavar='A,B,...',
                        help=f'(default {",".join(NETWORKS)}; with --all: all)')  # fmt: skip
    parser.add_argument('--size', type=few, default=32, metavar='N', help='of the images, N x N (default 32)')
    parser.add_argument('--batch-size', type=counts, default=[16, 64], metavar='N,N,...', help='sizes that are timed; '
                        'training uses the first (default 16,64)')  # fmt: skip
    parser.add_argument('--rounds', type=few, default=15, metavar='N', help='timed steps (default 15)')
    parser.add_argument('--device', default='cpu', help='cpu, cuda, cuda:N or mps (default cpu)')
    group = parser.add_argument_group('survey')
    group.add_argument('--all', action='store_true', help='survey all networks, or --networks if given')
    group.add_argument('--source', choices=networks.SOURCES, help='networks of this source only')
    group.add_argument('--limit', type=positive, default=120.0, metavar='SECONDS', help='for each (default 120)')
    group.add_argument('--output', type=Path, metavar='FILE.json', help='a record of each network; repeat the command '
                       'to resume with the missing ones')  # fmt: skip
    args = parser.parse_args(argv)
    known = networks.NETWORKS if args.all else NETWORKS
    if unknown := [name for name in args.networks or () if name not in known]:
        raise UserError(f'--networks: {unknown[0]!r} is none of {", ".join(known)}')
    args.networks = [name for name in args.networks or known if args.source in (None, known[name][0])]
    if args.all and 'fork' not in multiprocessing.get_all_start_methods():
        raise UserError('--all needs a system that can fork processes')
    for name in () if args.all else args.networks:
        require(f'{name} needs {known[name][0]}', known[name][0])
    return args


def main(argv):
    args = parse(argv)
    warnings.simplefilter('ignore')  # that tasks of a few steps close few gates
    if args.all:
        return survey(args.networks, args.limit, args.output)
    device = setup_device(args.device)
    print(
        f'{N_TASKS} tasks of {N_CLASSES} classes, images of {args.size}x{args.size}, {describe(device)}\n', flush=True
    )
    print(markdown(head(args), []), flush=True)
    for name in args.networks:
        print(markdown(head(args), [row(name, args, device)]).splitlines()[-1], flush=True)


def counts(text):
    """The argument --batch-size."""
    return [count(word) for word in words(text)]


def head(args):
    return HEAD + [f'{what}, {n} images' for n in args.batch_size for what in TIMES]


def row(name, args, device):
    def batch(seed=None, n=args.batch_size[0]):
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        x = torch.randn(n, 3, args.size, args.size, generator=generator)
        return x.to(device), torch.randint(N_CLASSES, (len(x),), generator=generator).to(device)

    torch.manual_seed(0)
    net, (x, _) = build(name, args.size).to(device), batch(seed=0)
    try:
        converted = [hat.convert(net, N_TASKS, x) for _ in OPTIMIZERS]
    except hat.CannotConvert as error:
        return [name, f'no: {error}', *[''] * (len(head(args)) - 2)]
    with torch.no_grad():
        opened = [torch.ones_like(a) for a in converted[0].masks(0)]
        difference = float((converted[0].eval().run((x,), 0, opened) - net.eval()(x)).abs().max())
    first = [step_times(net, converted[-1], 0, lambda n=n: batch(n=n), args.rounds, device) for n in args.batch_size]
    same = []
    for model, make in zip(converted, OPTIMIZERS.values(), strict=True):
        optimizer = make(model.parameters())
        for task in range(N_TASKS):
            for b in range(STEPS):
                step(model, optimizer, *batch(), task=task, progress=b / (STEPS - 1))
            if task < N_TASKS - 1:
                model.end_task(task)
            if task == 0:
                learned = outputs(model, x)
        same.append('yes' if torch.equal(outputs(model, x), learned) else 'no')
    flags = model.protected().values()
    protected = sum(int(each.sum()) for each in flags) / sum(each.numel() for each in flags)
    sizes = [sum(p.numel() for p in each.parameters()) for each in (net, model)]
    third = [step_times(net, model, N_TASKS - 1, lambda n=n: batch(n=n), args.rounds, device) for n in args.batch_size]
    times = [cell for (_, one), (ms, other) in zip(first, third, strict=True)
             for cell in (f'{ms:.0f}', f'{one:.2f} x', f'{other:.2f} x')]  # fmt: skip
    return [name, 'yes', f'{difference:.1g}', *same, f'{100 * protected:.0f}', f'{100 * (sizes[1] / sizes[0] - 1):.1f}',
            *times]  # fmt: skip


def build(name, size):
    source, argument = NETWORKS[name]
    net, _ = networks.BUILDERS[source](name, {argument: size} if argument else {})
    return net


def step(model, optimizer, x, y, **task):
    """A training step: of a converted network with the arguments task and progress, of the original without."""
    loss = F.cross_entropy(model.train()(x, **task), y)
    if task:
        loss = loss + 0.75 * model.regularization()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


@torch.no_grad()
def outputs(model, x):
    return model.eval()(x, task=0)


def step_times(net, model, task, batch, rounds, device):
    """The time of a training step of a network in ms, and how many times as long one of the converted network takes:
    medians; measurements are interleaved."""
    clock = time.process_time if device.type == 'cpu' else time.perf_counter
    pair = [(net, {}), (model, {'task': task, 'progress': 0.5})]
    optimizers = [OPTIMIZERS['SGD, momentum'](network.parameters()) for network, _ in pair]
    times = [[], []]
    for _ in range(rounds + WARM_UP):
        for (network, arguments), optimizer, measured in zip(pair, optimizers, times, strict=True):
            x, y = batch()
            start = clock()
            step(network, optimizer, x, y, **arguments)
            float(next(network.parameters()).flatten()[0])  # waits for a GPU
            measured.append(clock() - start)
    plain, converted = (measured[WARM_UP:] for measured in times)
    ratios = [b / a for a, b in zip(plain, converted, strict=True)]
    return 1000 * statistics.median(plain), statistics.median(ratios)
