"""Ways to start, anneal and regularize masks: the paper's, and those of HAT-CL (Duan 2023, arXiv 2307.09653).

A new one is a function:

init(e, generator=None)                  fills an embedding e, (N,), in place; other ends are set by
                                         functools.partial(uniform, low=-1, high=1)
schedule(progress, s_max)                the scale s at a position in the epoch, 0 to 1, a number or a scalar tensor
regularizer(masks, cumulative, n_tasks)  a scalar; masks: list of (N,), of the task; cumulative: the same of all learned
                                         tasks together, or None
"""

import math

import torch
from torch import nn

from hat.functional import linear, regularization


def normal(e, generator=None):
    """Embeddings from N(0, 1): about half of the gates are open (Serra et al. 2018, section 4, "Training")."""
    nn.init.normal_(e, generator=generator)


def uniform(e, generator=None, low=0.0, high=2.0):
    """Embeddings from U(low, high). With 0 and 2 all gates are rather open, to be compressed (section 4.4)."""
    nn.init.uniform_(e, low, high, generator=generator)


def dense(e, generator=None):
    """Embeddings of 1: all gates are open (HAT-CL)."""
    nn.init.ones_(e)


def cosine(progress, s_max):
    """s from s_max down to 1/s_max, at half of an epoch, and up again (HAT-CL): weights learn first, then masks, then
    weights under almost binary masks."""
    cos = torch.cos if isinstance(progress, torch.Tensor) else math.cos
    return (s_max + 1 / s_max) / 2 + (s_max - 1 / s_max) / 2 * cos(2 * math.pi * progress)


def exponential(progress, s_max, above_one=0.8):
    """s grows to s_max by a constant factor a batch; in the last `above_one` of an epoch it is above 1 (HAT-CL)."""
    return s_max ** (1 - (1 - progress) / above_one)


def constant(progress, s_max):
    """s_max all the time: what annealing is compared with (Serra et al. 2018, section 2.4)."""
    return s_max


def by_network(masks, cumulative, n_tasks):
    """Eq. 5, over all layers together (Serra et al. 2018)."""
    return regularization(masks, cumulative)


def by_layer(masks, cumulative, n_tasks):
    """Mean of each layer's own Eq. 5: a small layer counts as much as a large one (HAT-CL)."""
    return torch.stack(_each(masks, cumulative)).mean()


def quota(masks, cumulative, n_tasks):
    """As by_layer, but attention to N / n_tasks of each layer's N units is not penalized (HAT-CL)."""
    layers = _each(masks, cumulative)
    free = [torch.ones_like(a) if cumulative is None else 1 - cumulative[l] for l, a in enumerate(masks)]
    forgiven = [len(a) / n_tasks / f.sum().clamp_min(1e-9) for a, f in zip(masks, free, strict=True)]
    return torch.stack([(r - f).clamp_min(0) for r, f in zip(layers, forgiven, strict=True)]).mean()


def _each(masks, cumulative):
    return [regularization([a], cumulative and [cumulative[l]]) for l, a in enumerate(masks)]


INITS = {'normal': normal, 'uniform': uniform, 'dense': dense}
SCHEDULES = {'linear': linear, 'cosine': cosine, 'exponential': exponential, 'constant': constant}
REGULARIZERS = {'network': by_network, 'layer': by_layer, 'quota': quota}
