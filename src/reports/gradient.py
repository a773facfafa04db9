"""Why the embeddings' gradient is compensated, and what float32 makes of it (HAT, section 2.5 and Fig. 2).

Left: the gradient that an embedding gets over an epoch, as the gate is annealed, with s constant at s_max, and annealed
with compensation. Right: the compensated one, summed over an epoch: `exact` is the same for gates that are open, e > 0,
and closed; `released`, in the rounding of the paper's own code, lets open ones close less.
"""

import torch

from hat.functional import GRADIENTS, CompensatedGate, attention
from hat.schedules import linear
from reports import charts
from reports.figures import save

BATCHES = 797  # of an epoch of MNIST, 51,000 images in batches of 64


def draw(s_max, folder):
    """fig2.png and fig2.pdf in `folder`; prints two of the sums."""
    e = torch.linspace(-6, 6, 481)
    scales = [linear(b / (BATCHES - 1), s_max) for b in range(BATCHES)]
    ways = {
        'annealed': sum(gradient(lambda e, s=s: attention(e, s), e) for s in scales),
        's constant': BATCHES * gradient(lambda e: attention(e, s_max), e),
        'annealed, compensated': compensated(e, scales, s_max, 'exact'),
    }
    sums = {name: compensated(e, scales, s_max, name) for name in GRADIENTS}
    save({'fig2': ('', charts.gradients(e, ways, sums))}, folder)
    for name, total in sums.items():
        at = {x: float(total[(e - x).abs().argmin()]) for x in (-1, 1)}
        print(f'{name:9} sum over an epoch at e = -1: {at[-1]:.0f}, at e = 1: {at[1]:.0f}')
    print(folder / 'fig2.png')


def compensated(e, scales, s_max, name):
    return sum(gradient(lambda e, s=s: CompensatedGate.apply(e, s, s_max, name), e) for s in scales)


def gradient(gate, e):
    """Of the sum of a gate's outputs, with respect to e."""
    e = e.clone().requires_grad_()
    return torch.autograd.grad(gate(e).sum(), e)[0]
