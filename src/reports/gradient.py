"""Why the gradient of the embeddings is compensated, and the effect of float32 on it (HAT, section 2.5 and Fig. 2).

Left: the gradient of an embedding over an epoch with annealed gates, with constant s = s_max, and annealed with
compensation. Right: the compensated gradient, summed over an epoch: `exact` is the same for open gates, e > 0, and
closed ones; `released`, with the rounding of the paper's code, is smaller for open gates.
"""

import torch

from hat.functional import GRADIENTS, CompensatedGate, attention
from hat.schedules import linear
from reports import charts
from reports.figures import save

BATCHES = 797  # an epoch of MNIST, 51,000 images in batches of 64


def draw(s_max, folder):
    """Write fig2.png and fig2.pdf to `folder`; print the sums at two points."""
    e = torch.linspace(-6, 6, 481)
    scales = [linear(b / (BATCHES - 1), s_max) for b in range(BATCHES)]
    scaled = {
        'annealed': sum(gradient(lambda e, s=s: attention(e, s), e) for s in scales),
        's constant': BATCHES * gradient(lambda e: attention(e, s_max), e),
        'annealed, compensated': compensated(e, scales, s_max, 'exact'),
    }
    sums = {name: compensated(e, scales, s_max, name) for name in GRADIENTS}
    save({'fig2': ('', charts.gradients(e, scaled, sums))}, folder)
    for name, total in sums.items():
        at = {x: float(total[(e - x).abs().argmin()]) for x in (-1, 1)}
        print(f'{name:9} sum over an epoch at e = -1: {at[-1]:.4g}, at e = 1: {at[1]:.4g}')
    print(folder / 'fig2.png')


def compensated(e, scales, s_max, name):
    return sum(gradient(lambda e, s=s: CompensatedGate.apply(e, s, s_max, name), e) for s in scales)


def gradient(gate, e):
    """The gradient of the sum of a gate's outputs with respect to e."""
    e = e.clone().requires_grad_()
    return torch.autograd.grad(gate(e).sum(), e)[0]
