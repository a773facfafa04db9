"""Regularizers of the masks, so that a task leaves units free: functions regularizer(masks, cumulative, n_tasks).

masks: the task's, (N,) for each layer. cumulative: those of all learned tasks together, (N,) for each layer; None:
there is no learned task. Returns a scalar. From the paper and from HAT-CL (Duan 2023, arXiv 2307.09653).
"""

import torch
from torch import Tensor

from hat.functional import regularization


def by_network(masks: list[Tensor], cumulative: list[Tensor] | None, n_tasks: int) -> Tensor:
    """Eq. 5, over all layers together (Serra et al. 2018)."""
    return regularization(masks, cumulative)


def by_layer(masks: list[Tensor], cumulative: list[Tensor] | None, n_tasks: int) -> Tensor:
    """Mean over layers of Eq. 5 for each layer: a small layer counts as much as a large one (HAT-CL)."""
    return torch.stack(_each(masks, cumulative)).mean()


def quota(masks: list[Tensor], cumulative: list[Tensor] | None, n_tasks: int) -> Tensor:
    """As by_layer, but a task may use N / n_tasks of the N units of each layer without a penalty (HAT-CL)."""
    layers = _each(masks, cumulative)
    free = [torch.ones_like(a) if cumulative is None else 1 - cumulative[l] for l, a in enumerate(masks)]
    quotas = [len(a) / n_tasks / f.sum().clamp_min(1e-9) for a, f in zip(masks, free, strict=True)]
    return torch.stack([(r - f).clamp_min(0) for r, f in zip(layers, quotas, strict=True)]).mean()


def _each(masks: list[Tensor], cumulative: list[Tensor] | None) -> list[Tensor]:
    return [regularization([a], cumulative and [cumulative[l]]) for l, a in enumerate(masks)]


REGULARIZERS = {'network': by_network, 'layer': by_layer, 'quota': quota}
