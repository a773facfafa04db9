"""Why the embeddings' gradient is compensated, and what float32 makes of it (HAT, section 2.5 and Fig. 2).

Left: the gradient that an embedding gets over an epoch, as the gate is annealed, with s constant at s_max, and annealed
with compensation. Right: the compensated one, summed over an epoch: `exact` is the same for gates that are open, e > 0,
and closed; `released`, in the rounding of the paper's own code, lets open ones close less.
"""

import sys
from pathlib import Path

import torch

import charts
from arguments import Parser, positive
from errors import exit_code
from files import ROOT, atomic
from hat.functional import GRADIENTS, CompensatedGate, attention
from hat.schedules import linear
from results import make_folder

BATCHES = 797  # of an epoch of MNIST, 51,000 images in batches of 64
EXAMPLES = """\
examples:
  python src/plot_gradient.py
  python src/plot_gradient.py --smax 100 --output res/figures
"""


def parse(argv):
    parser = Parser(__doc__, EXAMPLES)
    parser.add_argument('--smax', type=positive, default=400.0, metavar='S', help='(default 400)')
    parser.add_argument('--output', type=Path, default=ROOT / 'res' / 'figures', metavar='DIR',
                        help='for fig2.png and fig2.pdf (default res/figures)')  # fmt: skip
    return parser.parse_args(argv)


def main(argv=None):
    args = parse(argv)
    make_folder(args.output)
    e = torch.linspace(-6, 6, 481)
    scales = [linear(b / (BATCHES - 1), args.smax) for b in range(BATCHES)]
    ways = {
        'annealed': sum(gradient(lambda e, s=s: attention(e, s), e) for s in scales),
        's constant': BATCHES * gradient(lambda e: attention(e, args.smax), e),
        'annealed, compensated': compensated(e, scales, args.smax, 'exact'),
    }
    sums = {name: compensated(e, scales, args.smax, name) for name in GRADIENTS}
    figure = charts.gradients(e, ways, sums)
    for suffix in 'png', 'pdf':
        with atomic(args.output / f'fig2.{suffix}') as part:
            figure.savefig(part, format=suffix, dpi=120)
    for name, total in sums.items():
        at = {x: float(total[(e - x).abs().argmin()]) for x in (-1, 1)}
        print(f'{name:9} sum over an epoch at e = -1: {at[-1]:.0f}, at e = 1: {at[1]:.0f}')
    print(args.output / 'fig2.png')


def compensated(e, scales, s_max, name):
    return sum(gradient(lambda e, s=s: CompensatedGate.apply(e, s, s_max, name), e) for s in scales)


def gradient(gate, e):
    """Of the sum of a gate's outputs, with respect to e."""
    e = e.clone().requires_grad_()
    return torch.autograd.grad(gate(e).sum(), e)[0]


if __name__ == '__main__':
    sys.exit(exit_code('plot_gradient.py', main, None))
